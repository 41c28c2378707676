"""Finds and reads the administrator's settings."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_operator.contracts.settings import Settings, SettingsError, parse_settings

VARIABLE = "FINETUNE_SETTINGS"
DEFAULT = Path("/etc/finetune-operator/settings.json")


def load_settings(path: Path | None = None) -> Settings:
    """Read the file at `path`, else at $FINETUNE_SETTINGS, else where the chart mounts it; SettingsError."""
    path = path or Path(os.environ.get(VARIABLE, DEFAULT))
    try:
        return parse_settings(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"Cannot read the settings at {path}: {error.strerror}. Set {VARIABLE} to a readable file; "
            "the Helm chart mounts one."
        ) from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
