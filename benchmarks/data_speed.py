"""How long `check` takes on a large data set, and how much memory.

    python -m benchmarks.data_speed [--rows 100000] [--model DIR]

Rows of about 200 words: sentences of the drug reviews in new order, each row with its own. With a model the
rows are tokenised too, beside what trainers do at the start of a run: `datasets` maps a chat template and the
tokenizer over the rows, with as many processes, and checks nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.record import write

REVIEWS = Path(__file__).parents[1] / "examples" / "drug-reviews" / "data" / "train.jsonl"
WORDS = 200
_SECONDS = 0.2  # between two looks at the memory


def rows(count: int, seed: int = 17) -> Iterator[dict[str, Any]]:
    """Reviews of new sentences, with the answers of real ones."""
    given = [json.loads(line) for line in REVIEWS.read_text().splitlines()]
    texts = [" ".join(turn["content"] for turn in row["messages"] if turn["role"] == "user") for row in given]
    sentences = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if len(s.split()) > 2]
    answers = [row["messages"][-1]["content"] for row in given]
    random = Random(seed)
    for _ in range(count):
        chosen: list[str] = []
        while sum(map(len, chosen)) < 5.5 * WORDS:
            chosen.append(_reworded(random.choice(sentences), random))
        yield {"prompt": " ".join(chosen), "completion": random.choice(answers)}


def _reworded(sentence: str, random: Random) -> str:
    """Words in new order: there are fewer sentences than rows need, and rows must not be near-duplicates."""
    words = sentence.split()
    random.shuffle(words)
    return " ".join(words)


def measured(command: list[str]) -> dict[str, float]:
    """Seconds of a command and the highest memory of it and its children, in GiB (proportional set size)."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    watcher.join()
    if code not in (0, 1):
        raise SystemExit(f"{command} ended with {code}")
    return {"seconds": round(time.monotonic() - start, 1), "peakGiB": round(peak[0] / 2**20, 2)}


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_pss, _family(process.pid))))
        time.sleep(_SECONDS)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


def tokenise_with_datasets(data: Path, model: Path) -> None:
    """What trainers do first: the template and the tokenizer over all rows."""
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenised(row: dict[str, Any]) -> dict[str, Any]:
        turns = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        prompt = tokenizer.apply_chat_template(turns[:1], tokenize=True, add_generation_prompt=True)
        return {"prompt_ids": prompt["input_ids"], **tokenizer.apply_chat_template(turns, tokenize=True)}

    disable_progress_bars()
    cores = len(os.sched_getaffinity(0))
    load_dataset("json", data_files=str(data), split="train").map(tokenised, num_proc=cores)


def main() -> None:
    """Print and record the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--with-datasets", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.with_datasets:
        tokenise_with_datasets(given.with_datasets, given.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        print(
            "written:", write("data_speed", _arms(given, Path(folder) / "rows.jsonl"), ("numpy", "datasets"))
        )


def _arms(given: argparse.Namespace, data: Path) -> dict[str, Any]:
    with data.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(given.rows))
    check = [sys.executable, "-m", "finetune_trainer", "check", str(data), "--output", "json"]
    arms = {"check": measured(check)}
    print(arms)
    if given.model:
        arms["check with tokens"] = measured([*check, "--model", str(given.model)])
        other = [sys.executable, "-m", "benchmarks.data_speed", "--with-datasets", str(data)]
        arms["datasets: tokens only"] = measured([*other, "--model", str(given.model)])
        print(arms)
    return {"rows": given.rows, "bytes": data.stat().st_size, "arms": arms}


if __name__ == "__main__":
    main()
