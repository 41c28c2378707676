"""Write data/train.jsonl and data/holdout.jsonl from scenarios/: `python examples/code-review/build.py`.

Every scenario is a small change with one defect, and the review that the team would write. It is told three
times, with other names and numbers and beside another change that is harmless. The scenarios of training and
hold-out are different ones, so that the hold-out asks for defects in code that was never seen; the rows of a
scenario are one `group`.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SEED = 17
TELLINGS = 3
HELD_OUT = 3  # of the eight scenarios of each kind
THINGS = (
    "order", "invoice", "ticket", "sensor", "booking", "parcel", "lesson", "recipe", "route", "tenant",
    "device", "claim", "sample", "voucher", "shift", "reading", "ledger", "vessel", "meter", "contract",
)  # fmt: skip
FIELDS = ("title", "owner", "status", "weight", "city", "rank", "note", "colour", "label", "region")
HARMLESS: dict[str, list[str]] = yaml.safe_load((HERE / "harmless.yaml").read_text(encoding="utf-8"))
_NAME = re.compile("%(things|thing|Things|Thing|THING|field|Field|n)%")
_DUTY = (
    "You review changes as our team does. Answer with one line of JSON and nothing else: "
    '{"kind": "the kind of defect", "severity": "must, should or nit", '
    '"comment": "what breaks in use, then how to mend it"}. The kinds are %s.'
)


@dataclass(frozen=True)
class Scenario:
    """A change with one defect of a kind, and its review; names in per cent signs are filled in."""

    kind: str
    number: int
    severity: str
    file: str
    diff: str
    breaks: str
    mend: str


def main() -> None:
    """Write both files."""
    chance = random.Random(SEED)  # noqa: S311 - data, not secrets
    train, holdout = [], []
    for kind in kinds():
        scenarios = list(read(kind))
        chance.shuffle(scenarios)
        holdout += scenarios[:HELD_OUT]
        train += scenarios[HELD_OUT:]
    for name, scenarios in (("train", train), ("holdout", holdout)):
        rows = [row for scenario in scenarios for row in told(scenario, chance)]
        chance.shuffle(rows)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (HERE / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def kinds() -> list[str]:
    """The kinds of defects, one file each."""
    return sorted(path.stem for path in (HERE / "scenarios").glob("*.yaml"))


def read(kind: str) -> Iterator[Scenario]:
    """The scenarios of a kind."""
    document = yaml.safe_load((HERE / "scenarios" / f"{kind}.yaml").read_text(encoding="utf-8"))
    for number, given in enumerate(document["scenarios"], 1):
        yield Scenario(kind, number, document["severity"], **given)


def told(scenario: Scenario, chance: random.Random) -> Iterator[dict[str, Any]]:
    """The rows of a scenario, each with other names."""
    things, fields = chance.sample(THINGS, TELLINGS), chance.sample(FIELDS, TELLINGS)
    for place, (thing, field) in enumerate(zip(things, fields, strict=True), 1):
        names = {
            "thing": thing, "things": f"{thing}s", "Thing": thing.title(), "Things": f"{thing.title()}s",
            "THING": thing.upper(), "field": field, "Field": field.title(), "n": str(chance.randint(2, 9)),
        }  # fmt: skip
        yield _row(scenario, place, names, chance)


def _row(scenario: Scenario, place: int, names: dict[str, str], chance: random.Random) -> dict[str, Any]:
    thing = names["thing"]

    def filled(text: str) -> str:
        return _NAME.sub(lambda found: names[found[1]], text)

    def said(text: str) -> str:
        return (
            re.sub(rf"\b([Aa]) (?={thing})", r"\1n ", filled(text)) if thing[0] in "aeiou" else filled(text)
        )

    review = {
        "kind": scenario.kind,
        "severity": scenario.severity,
        "comment": said(f"{scenario.breaks} {scenario.mend}"),
    }
    changes = [filled(text) for text in _with_harmless(scenario, chance)]
    starts = sorted(chance.sample(range(3, 240, 30), len(changes)))
    hunks = [_hunk(start, change) for start, change in zip(starts, changes, strict=True)]
    group = f"{scenario.kind}-{scenario.number}"
    return {
        "id": f"{group}-{place}",
        "group": group,
        "messages": [
            {"role": "system", "content": _DUTY % ", ".join(kinds())},
            {"role": "user", "content": "\n".join([filled(scenario.file), *hunks])},
            {"role": "assistant", "content": json.dumps(review, ensure_ascii=False)},
        ],
    }


def _with_harmless(scenario: Scenario, chance: random.Random) -> list[str]:
    """The change, and before or after it one without a defect."""
    suffix = scenario.file.rpartition(".")[2].replace("tsx", "ts")
    others = HARMLESS.get(suffix, [])
    hunks = [scenario.diff, *chance.sample(others, min(1, len(others)))]
    chance.shuffle(hunks)
    return hunks


def _hunk(start: int, change: str) -> str:
    """The lines of a change under their place in the file, which is made up."""
    lines = [line or " " for line in change.rstrip("\n").split("\n")]
    before, after = (sum(line[0] != other for line in lines) for other in "+-")
    return "\n".join([f"@@ -{start},{before} +{start},{after} @@", *lines])


if __name__ == "__main__":
    main()
