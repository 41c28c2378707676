"""A base like python:3.11-slim-bookworm, made from Debian packages where no registry can be reached."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from dev.images.buildah import Buildah
from dev.images.failure import ImageError

_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv", "python3-dev", "libgomp1", "libnuma1", "g++")
_NAME = "localhost/standin/python"


def ref() -> str:
    """The local name: clearly not the official image, with a digest of what goes in."""
    inputs = hashlib.sha256(" ".join((_SUITE, *_PACKAGES)).encode()).hexdigest()[:8]
    return f"{_NAME}:3.11-slim-bookworm-{inputs}"


def make(home: Path, buildah: Buildah) -> None:
    """Debootstrap the base and commit it as `ref()`."""
    root = home / "standin-root"
    shutil.rmtree(root, ignore_errors=True)
    log = home / "logs" / "image-standin.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    include = f"--include={','.join(_PACKAGES)}"
    with log.open("w") as out:
        command = ["debootstrap", "--variant=minbase", include, _SUITE, str(root)]
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ImageError(f"debootstrap failed; the log is {log} (are Debian's package servers reachable?)")
    _slim(root)
    buildah.commit_folder(root, ref())
    shutil.rmtree(root)


def _slim(root: Path) -> None:
    """Drop package archives and lists: the image never installs more packages."""
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    for entry in (root / "var/lib/apt/lists").iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
