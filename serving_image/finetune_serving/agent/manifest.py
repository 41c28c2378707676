"""Read the server manifest when the kubelet swaps it in."""

from pathlib import Path

from pydantic import ValidationError

from finetune_serving.documents import ServerManifest


class ManifestFile:
    """The mounted manifest. A broken document changes nothing: the last good one stays in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: tuple[int, int] | None = None
        self.current: ServerManifest | None = None
        self.error = ""

    def refresh(self) -> bool:
        """Read again if the file was replaced; whether `current` or `error` changed."""
        try:
            stat = self._path.stat()  # follows ..data, so a swap of the volume shows as another inode
        except OSError:
            return False
        if self._signature == (stat.st_ino, stat.st_mtime_ns):
            return False
        self._signature = (stat.st_ino, stat.st_mtime_ns)
        try:
            self.current = ServerManifest.model_validate_json(self._path.read_bytes())
            self.error = ""
        except (ValidationError, OSError) as error:
            if isinstance(error, OSError):
                self._signature = None  # the same file may be readable the next time
            self.error = (
                f"the server manifest cannot be read, the previous one stays in force: {_first(error)}"
            )
        return True


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc'])) or 'document'}: {detail['msg']}"
