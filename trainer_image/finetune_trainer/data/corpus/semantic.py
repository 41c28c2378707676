"""Paraphrases between hold-out and training inputs, by the base model's own word vectors (data rule 40).

Static vectors, no forward pass: the mean of a text's token embeddings, rare tokens weighing more, minus what
all texts have in common (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings").
It sees other words for the same and another order of sentences; it does not see what depends on word order,
so the rule is off unless a job sets its severity.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.corpus.facts import Context, Facts
from finetune_trainer.data.corpus.texts import Texts, held_out, input_text
from finetune_trainer.data.corpus.words import Hashes, Indices, read_words, strip
from finetune_trainer.data.findings import Finding, found, name_rows
from finetune_trainer.data.holdout import HoldoutRow

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], list[list[int]]]

ALIKE = 0.95
_NAMES = ("model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight")
_WIDTHS: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_RARITY = 1e-3  # the paper's a, in a / (a + p(token))
_BATCH = 1000


def embedding_matrix(base: Path) -> NDArray[np.generic] | None:
    """The embeddings of a base folder as they lie on disk ([tokens, width]), None if none is found.

    Mapped, not read: of a large vocabulary only the rows that occur are touched. bfloat16 comes as uint16.
    """
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for entry in (header[name] for name in _NAMES if name in header):
            start = 8 + size + entry["data_offsets"][0]
            return np.memmap(path, _WIDTHS[entry["dtype"]], "r", start, tuple(entry["shape"]))
    return None


def token_weights(counts: Indices) -> Vectors:
    """What each token weighs: [tokens], near 1 for rare ones; `counts` are over the training inputs."""
    share = counts / max(int(counts.sum()), 1)
    return (_RARITY / (_RARITY + share)).astype(np.float32)


def embed(encoded: Sequence[Sequence[int]], matrix: NDArray[np.generic], weights: Vectors) -> Vectors:
    """The weighted mean of token vectors of each text: [texts, width]; zero for a text without tokens."""
    result = np.zeros((len(encoded), matrix.shape[1]), dtype=np.float32)
    for place, ids in enumerate(encoded):
        if ids:
            chosen = weights[list(ids)]
            result[place] = chosen @ _floats(matrix[list(ids)]) / chosen.sum()
    return result


def leak_semantic(
    train: Facts,
    texts: Texts,
    holdout: Sequence[HoldoutRow],
    context: Context,
    matrix: NDArray[np.generic],
    encode: Encode,
) -> Finding | None:
    """Rule 40: no hold-out input is a paraphrase of a training input (cosine of 0.95 or more)."""
    counts = _token_counts(train, texts, context, len(matrix), encode)
    weights = token_weights(counts)
    common = embed([np.flatnonzero(counts).tolist()], matrix, weights * counts)[0]

    def directions(inputs: list[str]) -> Vectors:
        return _unit(embed(encode(_own(inputs, context.templates)), matrix, weights) - common)

    held = directions([input_text(held_out(row)) for row in holdout])
    place, cosine = _closest(held, map(directions, _inputs(texts, len(train))))
    wrong = np.flatnonzero(cosine >= ALIKE)
    numbers = [holdout[i].number for i in wrong.tolist()]
    if not numbers:
        return None
    text = (
        f"Hold-out {name_rows(numbers)} may paraphrase training inputs (row {numbers[0]} training "
        f"row {train.number[place[wrong[0]]]}, cosine {cosine[wrong[0]]:.2f}); read them and "
        "remove one side."
    )
    return found(40, "leak_semantic", numbers, text, "warning")


def _closest(held: Vectors, batches: Iterable[Vectors]) -> tuple[Indices, NDArray[np.float64]]:
    """For each held-out direction the training row whose direction is closest: its place and the cosine."""
    closest, best = np.zeros(len(held), dtype=np.int64), np.full(len(held), -1.0)
    for number, batch in enumerate(batches):
        cosines = held @ batch.T
        place, value = cosines.argmax(axis=1), cosines.max(axis=1)
        closest = np.where(value > best, number * _BATCH + place, closest)
        best = np.maximum(best, value)
    return closest, best


def _token_counts(train: Facts, texts: Texts, context: Context, tokens: int, encode: Encode) -> Indices:
    counts = np.zeros(tokens, dtype=np.int64)
    for part in _inputs(texts, len(train)):
        ids = [token for row in encode(_own(part, context.templates)) for token in row]
        counts += np.bincount(ids, minlength=tokens)
    return counts


def _inputs(texts: Texts, count: int) -> Iterator[list[str]]:
    for start in range(0, count, _BATCH):
        yield [input_text(texts(i)) for i in range(start, min(start + _BATCH, count))]


def _own(texts: Sequence[str], templates: Hashes) -> list[str]:
    """The words of each text outside templates, which would make all texts alike."""
    words, _ = strip(read_words(texts), templates)
    joined = "\n".join(texts) + "\n"
    kept: list[list[str]] = [[] for _ in texts]
    for owner, begin, end in zip(words.owner.tolist(), words.begin.tolist(), words.end.tolist(), strict=True):
        kept[owner].append(joined[begin:end])
    return [" ".join(parts) for parts in kept]


def _floats(rows: NDArray[np.generic]) -> Vectors:
    if rows.dtype == np.uint16:  # bfloat16 is the upper half of float32
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, 1e-12).astype(np.float32)
    return unit
