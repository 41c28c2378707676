"""The fingerprint of a base model folder: what the engine serves must be what an adapter was trained on.

The byte format is "Base fingerprint" of docs/contracts.md; the trainer computes it with its
own code and tests/contract/ holds the two together. Big weights are sampled, so this takes well under a
second per file.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

DESCRIBING = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
    }
)
COPIES = "consolidated*.safetensors"  # Mistral's own format of the same weights, which vLLM does not need
_BLOCK = 65536
_LAST = 15


def base_fingerprint(folder: Path) -> str:
    """`sha256:<64 hex>` of a model folder; ValueError when it holds no complete safetensors weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    weights = [path for path in files if path.match("*.safetensors") and not path.match(COPIES)]
    if not weights:
        raise ValueError(
            f"{folder} holds no *.safetensors file, so it is not a base model this server can use."
        )
    hasher = sha256()
    for path in files:
        if path.name in DESCRIBING:
            content = path.read_bytes()
            hasher.update(_framed(path.name, len(content)) + content)
    for path in weights:
        for chunk in _weights(path):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()


def _framed(name: str, size: int) -> bytes:
    return name.encode() + b"\0" + size.to_bytes(8, "big")


def _weights(path: Path) -> Iterator[bytes]:
    """Name and size, then the header as it is in the file, then the sampled blocks of the data."""
    size = path.stat().st_size
    yield _framed(path.name, size)
    with path.open("rb") as file:
        prefix = file.read(8)
        data = 8 + int.from_bytes(prefix, "little")
        if len(prefix) < 8 or data > size:
            raise ValueError(f"{path.name} is not a complete safetensors file; fetch the base model again.")
        yield prefix + file.read(data - 8)
        for offset in _offsets(data, size - data):
            file.seek(offset)
            yield file.read(_BLOCK)


def _offsets(start: int, length: int) -> list[int]:
    spare = length - _BLOCK
    return [start] if spare <= 0 else [start + i * spare // _LAST for i in range(_LAST + 1)]
