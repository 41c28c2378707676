"""Credentials from the Secret that the operator mounts, one folder per purpose, with fixed keys."""

import os
from pathlib import Path
from typing import Literal

Purpose = Literal["base-model", "dataset", "judge", "mlflow", "open-telemetry"]
Key = Literal["token", "accessKeyId", "secretAccessKey", "sessionToken", "serviceAccountJson"]


def credential_file(purpose: Purpose, key: Key) -> Path | None:
    """The mounted file of a key, if there is one (`FT_CREDENTIALS_ROOT` replaces the usual root)."""
    root = Path(os.environ.get("FT_CREDENTIALS_ROOT", "/etc/finetune/credentials"))
    path = root / purpose / key
    return path if path.is_file() else None


def credential(purpose: Purpose, key: Key) -> str | None:
    """The value of a key without the newline that editors leave; None if it is absent or empty."""
    path = credential_file(purpose, key)
    return (path.read_text(encoding="utf-8").strip() or None) if path else None
