"""What a base model's config.json says about its limits."""

import json
from pathlib import Path

from finetune_trainer.errors import UserError

_UNKNOWN_POSITIONS = 131072  # the longest training.maxLength that a job may ask for


def read_positions(base: Path) -> int:
    """The model's context length in tokens; UserError when the folder is no transformers model."""
    path = base / "config.json"
    if not path.is_file():
        names = ", ".join(sorted(entry.name for entry in base.iterdir())[:10]) or "nothing"
        raise UserError(f"The base model's folder has no config.json (it holds {names}); correct its path.")
    try:
        config = json.loads(path.read_bytes())
        nested = config.get("text_config") or {}
        return int(
            config.get("max_position_embeddings")
            or nested.get("max_position_embeddings")
            or _UNKNOWN_POSITIONS
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            "The base model's config.json is not a JSON object with numbers; repair it."
        ) from error
