"""Waiting until a process answers."""

import select
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc

from dev.cluster.failure import ClusterError
from dev.cluster.pki import Pki
from dev.cluster.process import Supervisor

_STEP_SECONDS = 0.1


def wait_until(check: Callable[[], bool], supervisor: Supervisor, name: str, seconds: float) -> None:
    """Ask until `check` holds; ClusterError as soon as the process is gone or the time is up."""
    deadline = time.monotonic() + seconds
    while not check():
        supervisor.require_alive(name)
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} was not ready within {seconds:.0f} s; {supervisor.explain(name)}")
        # A foreign process offers no event for "now I answer"; an empty select only lets time pass.
        select.select([], [], [], _STEP_SECONDS)


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def cri_answers(socket: Path) -> bool:
    """Whether the runtime behind the socket answers the kubelet's first question, its version (CRI v1).

    containerd listens before its CRI service is initialised, and a kubelet that asks in between gives up.
    """
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        try:
            channel.unary_unary("/runtime.v1.RuntimeService/Version")(b"", timeout=2)
        except grpc.RpcError:
            return False
    return True


def client_context(pki: Pki, name: str, authority: Path | None = None) -> ssl.SSLContext:
    """TLS with a client certificate; trusts the cluster's authority unless told another."""
    context = ssl.create_default_context(cafile=str(authority or pki.certificate("ca")))
    context.load_cert_chain(pki.certificate(name), pki.key(name))
    return context
