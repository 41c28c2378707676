"""What this machine must have before anything starts, and installing what Debian offers of it."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.failure import ClusterError

CNI_PLUGINS = Path("/usr/lib/cni")
_CNI_BRIDGE = str(CNI_PLUGINS / "bridge")
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    _CNI_BRIDGE: "containernetworking-plugins",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "setpriv": "util-linux",
}
"""The program that is looked for, and the Debian package that brings it."""
_SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Host:
    """What was found; made by `look`, so that the decision below is a pure one."""

    system: str
    root: bool
    missing: tuple[str, ...]
    apt: bool


def look() -> Host:
    """Look at this machine; programs of root may lie outside a user's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    missing = tuple(
        package for program, package in PACKAGES.items() if shutil.which(program, path=path) is None
    )
    apt = shutil.which("apt-get") is not None
    return Host(platform.system(), os.geteuid() == 0, missing, apt)


def obstacles(host: Host) -> list[str]:
    """Sentences about what stops the cluster and what to do; empty when it can run or be made to."""
    if host.system != "Linux":
        return [f"it needs Linux, and this is {host.system}: use a Linux machine or a virtual one"]
    found = []
    if not host.root:
        found.append("it needs root, because containers, mounts and network devices do: run it with sudo")
    if host.missing and not (host.root and host.apt):
        packages = " ".join(host.missing)
        found.append(f"these Debian packages (or their programs) are missing: {packages}; install them")
    return found


def require_root() -> None:
    """ClusterError for anyone else: they could see the cluster but not stop it."""
    if os.geteuid() != 0:
        raise ClusterError("the embedded cluster runs as root: run this with sudo")


def prepare() -> None:
    """Install the missing packages, or ClusterError with everything that is in the way."""
    host = look()
    if found := obstacles(host):
        raise ClusterError("the embedded cluster cannot run here: " + "; ".join(found))
    if not host.missing:
        return
    _install(host.missing)
    if still := look().missing:
        raise ClusterError(f"apt-get did not bring {' '.join(still)}; install them and try again")


def offer(program: str, package: str) -> None:
    """Install a program that only tests need, where this machine lets us; without it they skip, saying so."""
    host = look()
    if shutil.which(program) is None and host.root and host.apt:
        _install([package])


def _install(packages: Sequence[str]) -> None:
    print(f"installing Debian packages: {' '.join(packages)} ...", flush=True)
    with _services_stay_off():
        _apt("update", "--quiet")
        _apt("install", "--yes", "--quiet", "--no-install-recommends", *packages)


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-800:]}")


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """The packages bring system services (containerd, a registry on our port) that we do not want."""
    if _SERVICE_POLICY.exists():
        yield
        return
    _SERVICE_POLICY.write_text("#!/bin/sh\nexit 101\n")
    _SERVICE_POLICY.chmod(0o755)
    try:
        yield
    finally:
        _SERVICE_POLICY.unlink()
