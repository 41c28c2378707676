"""What a running engine opens beside its socket, read from the kernel."""

import re
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import httpx
import pytest

from finetune_serving.health import check, starting_file
from tests.contract.engine.conftest import running_engine

pytestmark = [pytest.mark.engine, pytest.mark.slow]
LISTENING = "0A"


def processes(socket: Path) -> set[int]:
    """The process that serves the socket and all that it started."""
    parents = {int(stat.parent.name): _parent(stat) for stat in Path("/proc").glob("[0-9]*/stat")}
    found = {pid for pid in parents if str(socket).encode() in _read(pid, "cmdline")}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parent(stat: Path) -> int:
    """The fourth field; the second, in brackets, may hold anything. 0 for a process that has just ended."""
    fields = _read(int(stat.parent.name), "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def sockets(pids: set[int]) -> set[str]:
    """The inodes of the sockets that processes have open."""
    links = (str(link.readlink()) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir())
    return {found[1] for found in (re.fullmatch(r"socket:\[(\d+)\]", link) for link in links) if found}


def listeners(inodes: set[str]) -> Iterator[tuple[str, int]]:
    """Address and port of each of these TCP sockets that listens."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                address, port = fields[1].split(":")
                yield _address(address), int(port, 16)


def _address(digits: str) -> str:
    """The kernel writes an address as words of 32 bits in the machine's (little-endian) order."""
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    found = ip_address(b"".join(words))
    return str((found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found)


def test_whatever_an_engine_listens_on_is_reachable_from_its_own_pod_only(engine_socket: Path) -> None:
    pids = processes(engine_socket)
    open_ports = list(listeners(sockets(pids)))
    assert len(pids) > 1, "the engine core is a process of its own"
    assert open_ports, "gloo listens even when there is one worker"
    assert [port for port in open_ports if not ip_address(port[0]).is_loopback] == []


def test_an_engine_that_is_up_is_not_starting(engine_socket: Path) -> None:
    assert not starting_file(str(engine_socket)).exists()


@pytest.mark.long
def test_a_server_without_slots_answers_as_its_base(base_model: Path) -> None:
    with running_engine(base_model, "--max-loras", "0") as socket:
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
            asked = {"model": "tiny", "prompt": "the patient", "max_tokens": 4}
            assert client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
            assert client.get("/internal/loras").json()["loras"] == {}
            assert check(str(socket)) == 0
