"""Whether a pod reaches anything, against sockets of this machine."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.sandbox import network


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    """Something that accepts connections, as an API server does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[:2]


@pytest.fixture(autouse=True)
def no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may be in a cloud."""
    monkeypatch.setattr(network, "_METADATA", ("127.0.0.1", 1))


def test_an_api_server_that_answers_is_a_network(listener: tuple[str, int], tmp_path: Path) -> None:
    host, port = listener
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
    assert network.reached(environment, tmp_path / "none") == f"the API server at {host} port {port}"


def test_addresses_that_refuse_and_a_missing_resolv_conf_are_none(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    assert network.reached(environment, tmp_path / "none") is None
    assert network.reached({}, tmp_path / "none") is None


def test_a_metadata_service_that_answers_is_a_network(
    listener: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_METADATA", listener)
    assert "a metadata service at" in str(network.reached({}, tmp_path / "none"))


def test_a_name_server_that_answers_over_udp_is_a_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        echo = threading.Thread(target=lambda: server.sendto(b"reply", server.recvfrom(512)[1]))
        echo.start()
        assert network._answers(*server.getsockname())
        echo.join()
        assert not network._answers("127.0.0.1", 1)


def test_name_servers_are_those_of_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search demo.svc\nnameserver 10.43.0.10\nnameserver\nnameserver ::1 # ours\n")
    assert list(network._name_servers(path)) == ["10.43.0.10", "::1"]


def test_a_policy_that_takes_effect_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["the API server", None, "the API server", None, None])
    monkeypatch.setattr(network, "reached", lambda *_: next(answers))
    assert network.reached_until(time.monotonic() + 60, pause=0) is None


def test_what_still_answers_in_the_end_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(network, "reached", lambda *_: "the API server at 10.0.0.1 port 443")
    monkeypatch.setattr(network, "_PATIENCE", 0.0)
    assert network.main() == network.FOUND
    said = "a pod that NetworkPolicies cut off reaches the API server at 10.0.0.1 port 443\n"
    assert capsys.readouterr().out == said
