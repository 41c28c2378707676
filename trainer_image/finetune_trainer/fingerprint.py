"""The fingerprint of a base model folder, equal in trainer and serving (docs/contracts.md).

One SHA-256 is fed, in this order, with these bytes and nothing between them:

1. For each file of TEXT_FILES that exists, in the order of its name:
   name (UTF-8) + one zero byte + content length (8 bytes, big endian) + content.
2. For each `*.safetensors` directly in the folder but `consolidated*` (a second copy of the same weights in
   Mistral's format, which neither transformers nor vLLM needs), in the order of its name:
   name (UTF-8) + one zero byte + file size (8 bytes, big endian)
   + the file's first 8 bytes as they are (header length N, little endian) + its N header bytes as they are
   + samples of the data, which start at offset 8 + N and are D bytes long:
     if D <= 65536: all of it, once; else 16 samples of 65536 bytes,
     sample i (0..15) from offset 8 + N + i * (D - 65536) // 15.

The result is "sha256:" + the hex digest. Headers alone cannot tell two fine-tunes of one architecture
apart, and reading all weights of a large base would take minutes; hence the samples.
"""

from hashlib import sha256
from pathlib import Path

TEXT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_SAMPLE = 65536
_SAMPLES = 16


def fingerprint(folder: Path) -> str:
    """`sha256:<hex>` of a model folder; ValueError when it holds no weights or a broken weight file."""
    weights = sorted(filter(_counts, folder.glob("*.safetensors")), key=lambda path: path.name)
    if not weights:
        raise ValueError(f"{folder} holds no *.safetensors file")
    digest = sha256()
    for name in sorted(TEXT_FILES):
        if (path := folder / name).is_file():
            content = path.read_bytes()
            digest.update(name.encode() + b"\0" + len(content).to_bytes(8, "big") + content)
    for path in weights:
        for part in _weight_parts(path):
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def is_weight_file(name: str) -> bool:
    """Whether transformers and vLLM read weights from a file of this name."""
    return name.endswith(".safetensors") and not name.startswith("consolidated")


def _counts(path: Path) -> bool:
    return is_weight_file(path.name)


def _weight_parts(path: Path) -> list[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        start = 8 + int.from_bytes(prefix, "little")
        if len(prefix) < 8 or start > size:
            raise ValueError(f"{path.name} is not a complete safetensors file")
        parts = [path.name.encode() + b"\0" + size.to_bytes(8, "big") + prefix, file.read(start - 8)]
        for offset in _sample_offsets(start, size - start):
            file.seek(offset)
            parts.append(file.read(_SAMPLE))
    return parts


def _sample_offsets(start: int, length: int) -> list[int]:
    if length <= _SAMPLE:
        return [start]
    return [start + i * (length - _SAMPLE) // (_SAMPLES - 1) for i in range(_SAMPLES)]
