"""Clean real text, and known defects planted into it, to measure how well the data checks find them.

The text is the drug reviews of examples/ and the docstrings of Python's standard library: both are at hand
without a network. "Clean" is decided here by other means than the checks use: no eight words in a row are in
two texts.
"""

import ast
import json
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random

from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow, split_reference

REVIEWS = Path(__file__).parents[1] / "examples" / "drug-reviews" / "data"
_CLEAN = 8  # words
Edit = Callable[[str, Random], str]


@dataclass(frozen=True)
class Example:
    """A prompt and its answer."""

    prompt: str
    answer: str


@dataclass
class DataSet:
    """Training and hold-out rows with what was planted: for each rule, the rows that it must name.

    A planted row and its original are a pair; naming the original too is right, so it is `excused`.
    """

    train: list[Row]
    holdout: list[HoldoutRow]
    planted: dict[str, set[int]] = field(default_factory=dict)
    excused: dict[str, set[int]] = field(default_factory=dict)

    def add(self, rule: str, example: Example, original: int | None = None, group: str | None = None) -> int:
        """Append a training row that `rule` must name; returns its number."""
        number = len(self.train) + 1
        self.train.append(replace(row_of(number, example), group=group))
        if rule:
            self.planted.setdefault(rule, set()).add(number)
        if original is not None:
            self.excused.setdefault(rule, set()).add(original)
        return number


def row_of(number: int, example: Example) -> Row:
    """A row in canonical form."""
    turns = ({"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer})
    return Row(number, str(number), turns)


def example_of(row: Row) -> Example:
    """The prompt and the answer of a row of two turns."""
    return Example(row.messages[0]["content"], row.messages[-1]["content"])


def data_set(examples: Sequence[Example], train: int, holdout: int, random: Random) -> DataSet:
    """Rows drawn without replacement."""
    drawn = random.sample(list(examples), train + holdout)
    held = [row_of(number, example) for number, example in enumerate(drawn[train:], start=1)]
    rows = [row_of(number, example) for number, example in enumerate(drawn[:train], start=1)]
    return DataSet(rows, [split_reference(row) for row in held])


@cache
def reviews() -> tuple[Example, ...]:
    """Classification: an instruction and a review of about 100 words, answered with JSON."""
    lines = [line for name in ("train", "holdout") for line in _lines(REVIEWS / f"{name}.jsonl")]
    turns = [json.loads(line)["messages"] for line in lines]
    return tuple(_clean((Example(ask["content"], answer["content"]) for ask, answer in turns), skip=35))


@cache
def continuations(count: int = 2000) -> tuple[Example, ...]:
    """Prose: the first half of a docstring as the prompt, the rest as the answer (at least 30 words each)."""
    return tuple(_some(_clean(_halves(text) for text in _docstrings() if len(text.split()) >= 60), count))


@cache
def short_questions(count: int = 2000) -> tuple[Example, ...]:
    """Prompts of 8 to 16 words (first sentences of docstrings), answered with a module's name."""
    found = (
        Example(f"Which module does this: {' '.join(text.split()[:16])}", module)
        for module, text in _named_docstrings()
        if len(text.split()) >= 8
    )
    return tuple(_some(_clean(found, skip=4), count))


SOURCES: dict[str, Callable[[], tuple[Example, ...]]] = {
    "reviews": reviews,
    "continuations": continuations,
    "short questions": short_questions,
}


def plant_exact_duplicates(data: DataSet, count: int, random: Random) -> None:
    """Copies with other white space and case."""
    for row in random.sample(data.train, count):
        example = example_of(row)
        data.add("exact_duplicate", Example(f" {example.prompt.upper()}\n", example.answer))


def plant_near_duplicates(data: DataSet, count: int, random: Random, per_hundred: float = 1) -> None:
    """Copies of rows with `per_hundred` edits per 100 words of the prompt (one at least)."""
    for row in random.sample(_long(data.train), count):
        example = example_of(row)
        prompt = edited(example.prompt, random, per_hundred)
        data.add("near_duplicate", Example(prompt, example.answer), original=row.number)


def plant_contradictions(data: DataSet, count: int, random: Random, edit: Edit | None = None) -> None:
    """The same prompt, or one edited by `edit`, with the answer of a row that answers otherwise."""
    for row in random.sample(_long(data.train) if edit else data.train, count):
        example = example_of(row)
        others = [a for r in data.train if (a := example_of(r).answer) != example.answer]
        prompt = edit(example.prompt, random) if edit else example.prompt
        data.add("contradiction", Example(prompt, random.choice(others)), original=row.number)


def plant_exact_leaks(data: DataSet, count: int, random: Random) -> None:
    """Hold-out prompts in the training data, as they are but for case."""
    for row in random.sample(data.holdout, count):
        data.add("", Example(row.messages[0]["content"].upper(), row.reference))
        data.planted.setdefault("leak_exact", set()).add(row.number)


def plant_near_leaks(data: DataSet, count: int, random: Random, edit: Edit) -> None:
    """Edited hold-out prompts in the training data."""
    long = [row for row in data.holdout if len(row.messages[0]["content"].split()) >= _LONG]
    for row in random.sample(long, count):
        data.add("", Example(edit(row.messages[0]["content"], random), row.reference))
        data.planted.setdefault("leak_near", set()).add(row.number)


def plant_ngram_leaks(data: DataSet, count: int, random: Random, words: int = 13) -> None:
    """So many words of a hold-out answer inside the answer of a training row."""
    passages = {row.number: found for row in data.holdout if (found := _passages(row.reference, words))}
    hosts = random.sample(data.train, count)
    for number, host in zip(random.sample(sorted(passages), count), hosts, strict=True):
        example = example_of(host)
        middle = example.answer.split()
        middle.insert(len(middle) // 2, random.choice(passages[number]))
        data.train[host.number - 1] = row_of(host.number, Example(example.prompt, " ".join(middle)))
        data.planted.setdefault("leak_ngram", set()).add(number)


def edited(text: str, random: Random, per_hundred: float) -> str:
    """A text with so many edits per 100 words, at least one, spread over the kinds of EDITS.

    The last one changes more than case, or the text would be an exact copy to the rules.
    """
    for _ in range(max(1, round(per_hundred * len(text.split()) / 100)) - 1):
        text = random.choice(EDITS)(text, random)
    return random.choice(EDITS[1:])(text, random)


def swapped(text: str, random: Random) -> str:
    """Two neighbouring words change places."""
    words = text.split()
    i = random.choice([i for i in range(len(words) // 2, len(words) - 1) if words[i] != words[i + 1]])
    words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def dropped(text: str, random: Random) -> str:
    """A word is left out."""
    words = text.split()
    del words[random.randrange(len(words) // 2, len(words))]
    return " ".join(words)


def mistyped(text: str, random: Random) -> str:
    """Two letters inside a word of five or more change places; in a shorter one they make another word."""
    words = text.split()
    usable = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w[2] != w[3]]
    i = random.choice(usable[len(usable) // 2 :])
    words[i] = words[i][:2] + words[i][3] + words[i][2] + words[i][4:]
    return " ".join(words)


def recased(text: str, random: Random) -> str:
    """Some words are written in capitals."""
    return " ".join(word.upper() if random.random() < 0.2 else word for word in text.split())


def repunctuated(text: str, random: Random) -> str:
    """Full stops, commas and exclamation marks are exchanged or doubled."""
    return re.sub(r"[.,!](?=\s|$)", lambda _: random.choice(["!", "...", ";", " -"]), text) + "!"


def extended(text: str, random: Random) -> str:
    """A short sentence follows."""
    return f"{text} {random.choice(['Thanks in advance.', 'Hope this helps someone.', 'Just my view.'])}"


def paraphrased(text: str, random: Random) -> str:
    """Two neighbouring sentences change places and a few words have synonyms: a light paraphrase."""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    if len(sentences) > 2:
        i = random.randrange(1, len(sentences) - 1)
        sentences[i], sentences[i + 1] = sentences[i + 1], sentences[i]
    return _with_synonyms(" ".join(sentences), random, 0.25)


def reworded(text: str, random: Random) -> str:
    """All sentences in another order and every known synonym taken: a paraphrase that shares few phrases."""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    random.shuffle(sentences)
    return _with_synonyms(" ".join(sentences), random, 1.0)


EDITS: tuple[Edit, ...] = (recased, swapped, dropped, mistyped, repunctuated, extended)
SAME_WORDS: tuple[Edit, ...] = (recased, repunctuated)
_LONG = 60  # words of a prompt that has words edited (35 of a review's prompt are its instruction)

_SYNONYMS = {
    "really": "truly", "doctor": "physician", "began": "started", "took": "used", "taking": "using",
    "pain": "ache", "good": "fine", "great": "superb", "bad": "awful", "helped": "aided", "help": "aid",
    "felt": "was", "feel": "am", "years": "ages", "also": "too", "just": "only", "but": "yet",
    "because": "since", "use": "employ", "used": "employed", "return": "yield", "returns": "yields",
    "function": "routine", "object": "instance", "given": "supplied", "value": "datum", "list": "sequence",
    "must": "shall", "may": "can", "called": "invoked", "new": "fresh", "first": "initial",
    "default": "standard", "string": "text", "file": "document", "raise": "throw",
}  # fmt: skip


def _with_synonyms(text: str, random: Random, share: float) -> str:
    return " ".join(
        _SYNONYMS[word.lower()] if word.lower() in _SYNONYMS and random.random() < share else word
        for word in text.split()
    )


def _long(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if len(example_of(row).prompt.split()) >= _LONG]


def _passages(text: str, words: int) -> list[str]:
    """All runs of so many words, none of which is a mere sign."""
    tokens = text.split()
    runs = [tokens[i : i + words] for i in range(len(tokens) - words + 1)]
    return [" ".join(run) for run in runs if all(re.search(r"[^\W_]", token) for token in run)]


def _clean(examples: Iterable[Example], skip: int = 0) -> Iterator[Example]:
    """Those that share no eight words in a row with an earlier one; the first `skip` words do not count."""
    seen: set[str] = set()
    for example in examples:
        words = re.findall(r"\w+", f"{example.prompt} {example.answer}".lower())[skip:]
        grams = {" ".join(words[i : i + _CLEAN]) for i in range(max(1, len(words) - _CLEAN + 1))}
        if not grams & seen:
            seen |= grams
            yield example


def _some(examples: Iterator[Example], count: int) -> Iterator[Example]:
    return (example for example, _ in zip(examples, range(count), strict=False))


def _halves(text: str) -> Example:
    words = text.split()
    cut = len(words) * 2 // 3
    return Example(" ".join(words[:cut]), " ".join(words[cut:]))


def _docstrings() -> Iterator[str]:
    return (text for _, text in _named_docstrings())


@cache
def _named_docstrings() -> list[tuple[str, str]]:
    """Module and docstring of all that the standard library documents in its source."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")) if _documented(path)
    ]
    return [(path.stem, text) for path in files for text in _docs(path)]


def _documented(path: Path) -> bool:
    return not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts)


def _docs(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)) and ">>>" not in text:
            yield text


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
