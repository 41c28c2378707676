"""`python -m finetune_operator.generate [--check]`, run in the root of the repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from finetune_operator.generate.crd import definition
from finetune_operator.generate.kinds import KINDS
from finetune_operator.generate.reference import reference

_HEAD = "# Generated from operator/finetune_operator/api by `python -m finetune_operator.generate`.\n"
_FOLDERS = ("crds", "charts/finetune-operator/files/crds")


def generated(root: Path) -> dict[Path, str]:
    """Every generated file with its content; paths are relative to the root."""
    files: dict[Path, str] = {}
    for kind in KINDS:
        dumped = yaml.safe_dump(definition(kind), sort_keys=False, width=110, allow_unicode=True)
        for folder in _FOLDERS:
            files[Path(folder) / f"{kind.model.plural}.yaml"] = _HEAD + dumped
    samples = {kind.name: _sample(root, kind.name) for kind in KINDS}
    files[Path("docs/api.md")] = reference(samples)
    return files


def drift(root: Path) -> list[Path]:
    """The generated files that are missing or differ from what the models say."""
    return [path for path, text in generated(root).items() if _read(root / path) != text]


def write(root: Path) -> None:
    """Write every generated file."""
    for path, text in generated(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def main() -> int:
    """Write the files, or with --check only say which differ; 1 when one does."""
    parser = argparse.ArgumentParser(prog="python -m finetune_operator.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which files are out of date")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository")
    options = parser.parse_args()
    if not options.check:
        write(options.root)
        return 0
    stale = drift(options.root)
    for path in stale:
        print(f"{path} is out of date; run `python -m finetune_operator.generate`", file=sys.stderr)
    return 1 if stale else 0


def _sample(root: Path, kind: str) -> str:
    return (root / "crds" / "samples" / f"{kind.lower()}-minimal.yaml").read_text(encoding="utf-8")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
