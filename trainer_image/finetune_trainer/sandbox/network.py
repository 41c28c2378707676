"""Whether this pod reaches a network: run before images of users are, in the pod that they run in.

Asked are what every cluster has and a user's image must not reach: the API server, the name servers and the
address at which clouds hand out credentials. A NetworkPolicy may take effect after the pod has started, so an
answer counts only once half a minute has passed. Exit code 3 where something answers to the end.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

FOUND = 3
_PATIENCE, _PAUSE, _TIMEOUT = 30.0, 2.0, 2.0
_LOOKS = 2  # a server may be silent for a moment
_METADATA = ("169.254.169.254", 80)
# A question for the name servers of the root: id, flags, counts, an empty name, type NS, class IN.
_QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01"


def main() -> int:
    """0 where nothing answers, else FOUND and a sentence."""
    found = reached_until(time.monotonic() + _PATIENCE)
    if found is None:
        return 0
    sys.stdout.write(f"a pod that NetworkPolicies cut off reaches {found}\n")
    return FOUND


def reached_until(deadline: float, pause: float = _PAUSE) -> str | None:
    """What still answers at the deadline (of the monotonic clock); None once nothing does, more than once."""
    silent = 0
    while silent < _LOOKS:
        found = reached(os.environ, Path("/etc/resolv.conf"))
        if found and time.monotonic() >= deadline:
            return found
        silent = 0 if found else silent + 1
        time.sleep(pause)
    return None


def reached(environment: Mapping[str, str], resolver: Path) -> str | None:
    """What answers, in words."""
    servers = list(_name_servers(resolver))
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    places = [("the API server", host, int(port))] if host and port.isdecimal() else []
    places += [("a metadata service", *_METADATA), *(("a name server", server, 53) for server in servers)]
    for name, address, at in places:
        if _connects(address, at):
            return f"{name} at {address} port {at}"
    return next((f"a name server at {server}" for server in servers if _answers(server)), None)


def _name_servers(resolver: Path) -> Iterator[str]:
    with suppress(OSError):
        for line in resolver.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                yield words[1]


def _connects(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=_TIMEOUT):
        return True
    return False


def _answers(server: str, port: int = 53) -> bool:
    """Whether anything comes back over UDP."""
    with suppress(OSError):
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_TIMEOUT)
            sender.connect((server, port))
            sender.send(_QUESTION)
            return bool(sender.recv(512))
    return False


if __name__ == "__main__":
    sys.exit(main())
