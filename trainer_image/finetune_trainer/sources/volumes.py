"""pvc:// and configmap:// sources: files on volumes that the operator mounted."""

import os
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import UserError

_LISTED = 10


def resolve_volume_path(source: str, claims_root: Path | None = None, *, must_exist: bool = True) -> Path:
    """The path of `pvc://claim/path` or `configmap://name/key`; UserError if absent or outside its volume.

    Volumes are mounted under /sources/<scheme>/<name> (`FT_SOURCES_ROOT` replaces /sources); a claim may
    be looked up under another root, such as /destination, with `claims_root`.
    """
    scheme, volume, inner = _split(source)
    root = (claims_root or _sources_root() / scheme) / volume
    if not root.is_dir():
        raise UserError(
            f"{source}: the volume is not mounted; check that the {_kind(scheme)} {volume} exists."
        )
    path = root / inner
    _refuse_escape(source, root, path)
    if must_exist and not path.exists():
        raise UserError(f"{source} does not exist; {_what_is_there(root, path)}.")
    return path


def _sources_root() -> Path:
    return Path(os.environ.get("FT_SOURCES_ROOT", "/sources"))


def _kind(scheme: str) -> str:
    return "ConfigMap" if scheme == "configmap" else "PersistentVolumeClaim"


def _split(source: str) -> tuple[str, str, PurePosixPath]:
    scheme, _, rest = source.partition("://")
    volume, _, inner = rest.partition("/")
    if scheme not in ("pvc", "configmap") or not volume or volume in (".", ".."):
        raise UserError(f"{source} is not understood; write pvc://claim/path or configmap://name/key.")
    path = PurePosixPath(inner)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{source} leaves its volume; give a path without `..` below the volume's root.")
    return scheme, volume, path


def _refuse_escape(source: str, root: Path, path: Path) -> None:
    """A symbolic link may point elsewhere in its volume (ConfigMap volumes do), never outside."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{source} is a symbolic link out of its volume; put the files themselves there.")


def _what_is_there(root: Path, path: Path) -> str:
    nearest = next(parent for parent in path.parents if parent.is_dir())
    names = sorted(entry.name for entry in nearest.iterdir() if not entry.name.startswith(".."))
    where = f"/{nearest.relative_to(root)}" if nearest != root else "the volume"
    if not names:
        return f"{where} is empty"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{where} holds {', '.join(names[:_LISTED])}{more}"
