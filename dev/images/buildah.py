"""buildah with a storage of our own, in words of this project."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.images.failure import ImageError

_CERTIFICATES = ("/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates")
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_CACHE_INSIDE = "/root/.cache/uv"


@dataclass(frozen=True)
class Buildah:
    """Builds under `home`/containers and writes what a build said to `home`/logs."""

    home: Path

    def has(self, ref: str) -> bool:
        """Whether the image is in the local storage."""
        return self._run(["inspect", "--type", "image", ref], check=False).returncode == 0

    def build(self, context: Path, ref: str, args: Mapping[str, str], target: str | None = None) -> None:
        """Build the context's Dockerfile as `ref`; ImageError names the log when it fails."""
        flags = [flag for key, value in args.items() for flag in ("--build-arg", f"{key}={value}")]
        stage = ["--target", target] if target else []
        command = ["bud", "--isolation", "chroot", "--network", "host", *_borrowed(), *flags, *stage]
        self._logged([*command, "--tag", ref, str(context)], ref)

    def commit_folder(self, folder: Path, ref: str) -> None:
        """Make an image of one layer, the folder as its root."""
        container = self._run(["from", "scratch"]).stdout.strip()
        self._run(["add", "--quiet", container, str(folder), "/"])
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._run(["config", "--env", path, "--cmd", "python3", container])
        self._run(["commit", "--quiet", "--rm", container, ref])

    def push(self, ref: str) -> None:
        """Send the layers that the registry lacks; zstd, because the kubelet unpacks it far faster than gzip.

        buildah always compresses on the way to a registry: --disable-compression only works for folders.
        """
        flags = ["--tls-verify=false", "--compression-format", "zstd", "--compression-level", "1", "--quiet"]
        self._run(["push", *flags, ref, f"docker://{ref}"])

    def _command(self, arguments: Sequence[str]) -> list[str]:
        store = self.home / "containers"
        roots = ["--root", str(store / "storage"), "--runroot", str(store / "run")]
        return ["buildah", *roots, "--storage-driver", "overlay", *arguments]

    def _run(self, arguments: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self._command(arguments), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise ImageError(f"buildah {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
        return done

    def _logged(self, arguments: Sequence[str], ref: str) -> None:
        name = ref.rsplit("/", 1)[-1].split(":")[0]
        log = self.home / "logs" / f"image-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            done = subprocess.run(self._command(arguments), stdout=out, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise ImageError(f"the image {name} could not be built; the log is {log} and ends:\n{tail}")


def _borrowed() -> list[str]:
    """What a build may use of this machine: its certificates and its cache of Python packages."""
    mounts = [f"{path}:{path}:ro" for path in _CERTIFICATES if Path(path).is_dir()]
    mounts.append(f"{uv_cache()}:{_CACHE_INSIDE}")
    args = {"UV_CACHE_DIR": _CACHE_INSIDE}
    if _BUNDLE.is_file():
        args |= {"SSL_CERT_FILE": str(_BUNDLE), "PIP_CERT": str(_BUNDLE)}
    return [
        *(flag for mount in mounts for flag in ("--volume", mount)),
        *(flag for key, value in args.items() for flag in ("--build-arg", f"{key}={value}")),
    ]


def uv_cache() -> Path:
    """uv's cache folder on this machine; made when absent, so that it can be mounted."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    folder = Path(os.environ.get("UV_CACHE_DIR") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def require_tools() -> None:
    """ImageError with the packages to install, when a program that builds images is missing."""
    packages = {"buildah": "buildah", "debootstrap": "debootstrap", "docker-registry": "docker-registry"}
    missing = [package for tool, package in packages.items() if shutil.which(tool) is None]
    if missing:
        raise ImageError(f"images cannot be built: run `apt-get install --yes {' '.join(missing)}`")
    if os.geteuid():
        raise ImageError("images cannot be built: buildah's chroot isolation needs root here; run as root")
