"""Reports as the tests and the documentation's picture need them; all figures are made up.

`python tests/unit/trainer_report/examples.py FOLDER` writes each as a page, a text and a JSON file.
"""

import json
import math
import random
import re
import sys
from collections import Counter
from pathlib import Path

from finetune_trainer.data.findings import Finding
from finetune_trainer.evaluation.document import (
    Answers,
    Curves,
    Evaluation,
    GradedAnswer,
    GraderScores,
    Margin,
    Score,
    ShownRow,
    Spent,
)
from finetune_trainer.evaluation.rows import OUTCOMES, cut
from finetune_trainer.report.document import (
    Advice,
    DataFile,
    Datasets,
    DataSummary,
    DuplicateGroup,
    Duplicates,
    Estimate,
    Example,
    JobName,
    MemoryPlan,
    Report,
    Savings,
    Scoring,
    Settings,
    Token,
)
from finetune_trainer.report.html import report_html
from finetune_trainer.report.lengths import measure_lengths
from finetune_trainer.report.terminal import terminal_report

REVIEWS = Path(__file__).parents[3] / "examples" / "drug-reviews" / "data" / "train.jsonl"
HOLDOUT = REVIEWS.with_name("holdout.jsonl")
DIGEST = "sha256:" + "3f9a" * 16
NEAR = Finding(
    32, "near_duplicate", "warning", 14, (18, 22, 91, 107, 214, 230, 331, 402, 417, 466, 502, 533, 560, 571),
    "Rows 18, 22, 91 and 11 more nearly repeat another row (6 groups); keep one of each group.",
)  # fmt: skip
VARIES = Finding(
    44, "distribution_shift", "warning", 1, (),
    "Training inputs are 1.4 times as long as those of the hold-out; take both from the same source.", "holdout",
)  # fmt: skip
SMALL = Finding(
    29,
    "data_band",
    "info",
    586,
    (),
    "586 rows: expect a visible change of format and tone, no new knowledge.",
)
SECRETS = Finding(
    47, "secrets_pii", "warning", 2, (77, 303),
    "Rows 77 and 303 hold what looks like an e-mail address; remove it or keep it on purpose.",
    overridden="Ignore",
)  # fmt: skip


def clean() -> Report:
    """Data without a finding, no model at hand."""
    source = DataSummary(source="train.jsonl", format="messages", rows=586, digest=DIGEST)
    return Report(datasets=Datasets(train=source))


def refused() -> Report:
    """Many findings, among them texts that must not become markup, and names that steer a terminal."""
    files = (
        DataFile(name="<script>alert(1)</script>.jsonl", rows=700),
        DataFile(name="b\x1b[31m.jsonl", rows=350),
    )
    train = DataSummary(source="s3://reviews/2024/", format="messages", files=files, rows=1050, digest=DIGEST)
    rows = tuple(range(3, 203, 10))
    findings = (
        Finding(1, "unreadable_json", "error", 1, (17,), "Row 17 is not valid JSON: `<script>`; repair it."),
        Finding(9, "missing_content", "error", 214, rows,
                "Rows 3, 13, 23 and 211 more: message 2 has no content; write the answer or remove the row."),
        Finding(34, "contradiction", "error", 31, rows,
                "Rows 3, 13, 23 and 28 more have the same input and different answers; decide for one answer."),
        Finding(36, "leak_exact", "error", 7, (4, 9, 40, 41, 77, 101, 118),
                "Rows 4, 9, 40 and 4 more are also in the training data; remove them from one side.", "holdout"),
        Finding(31, "exact_duplicate", "warning", 94, rows,
                "Rows 3, 13, 23 and 91 more are exact copies of an earlier row; remove them.",
                overridden="Warning"),
        NEAR, VARIES, SECRETS, SMALL,
    )  # fmt: skip
    return Report(
        job=JobName(namespace="demo", name="reviews-s3"),
        datasets=Datasets(train=train, holdout=DataSummary(source="s3://reviews/eval.jsonl", rows=118)),
        findings=findings,
        duplicates=Duplicates(
            exact_rows=94, exact_groups=40, near_rows=14, near_groups=6, examples=_groups()
        ),
        overrides={"secrets_pii": "Ignore", "exact_duplicate": "Warning"},
    )


def full() -> Report:
    """Everything that a report can hold, on the drug reviews of examples/."""
    drawn = random.Random(17)
    answers = [drawn.choice((14, 15, 15, 16, 16, 16, 17, 17, 18, 19, 20)) for _ in range(586)]
    rows = [min(480, round(drawn.lognormvariate(5.18, 0.32))) + answer for answer in answers]
    lengths = measure_lengths(rows, answers, 512)
    return Report(
        job=JobName(namespace="demo", name="drug-reviews-v1"),
        datasets=Datasets(
            train=DataSummary(
                source="configmap://drug-reviews/train.jsonl", format="messages", rows=586, digest=DIGEST,
                tokens=lengths.total, trained_tokens=lengths.trained,
            ),
            holdout=DataSummary(source="configmap://drug-reviews/holdout.jsonl", format="messages", rows=120),
        ),
        findings=(NEAR, VARIES, SECRETS, SMALL),
        lengths=lengths,
        duplicates=Duplicates(exact_rows=0, exact_groups=0, near_rows=14, near_groups=6, examples=_groups()[1:]),
        example=Example(row=1, tokens=tuple(review_tokens())),
        memory=memory(),
        scoring=Scoring(gpus=2, gpu="h200", need_gib=70.5, limit_gib=129.2),
        estimate=estimate(3 * lengths.total),
        training={"epochs": 3, "learningRate": 0.0003, "effectiveBatchSize": 8, "maxLength": 512, "seed": 17, "steps": 222},
        lora={"rank": 16, "alpha": 32},
        advice=(Advice(reason="SmallTraffic", message="Under a million calls a day, renting tokens may cost less than a GPU of your own."),),
        overrides={"secrets_pii": "Ignore"},
    )  # fmt: skip


def evaluated() -> Report:
    """The same after an evaluation, its answers made up from the references of the hold-out."""
    return full().model_copy(update={"evaluation": evaluation()})


def evaluation() -> Evaluation:
    """120 rows, of which training made most right and some wrong."""
    drawn = random.Random(7)
    held_out = [json.loads(line) for line in HOLDOUT.open(encoding="utf-8")]
    rows = [_shown(str(place + 1), row["messages"], drawn) for place, row in enumerate(held_out)]
    outcomes = Counter(row.outcome for row in rows)
    steps = range(222)
    return Evaluation(
        metric="fields", verdict="Promote", rows=120, min_delta=0.05, graded_share=1.0,
        base=Score(score=0.141, low=0.097, high=0.197), tuned=Score(score=0.683, low=0.622, high=0.738),
        delta=Score(score=0.542, low=0.468, high=0.611),
        graders=(
            GraderScores(name="fields", primary=True, base=0.141, tuned=0.683),
            GraderScores(name="valid", primary=False, base=0.153, tuned=1.0),
        ),
        rivals={"shots": Score(score=0.31, low=0.24, high=0.39)},
        secondary=(Margin(name="valid", base=0.153, tuned=1.0, delta=0.847, low=0.79, margin=0.03, holds=True),),
        regression=(
            Margin(
                name="general", rows=129, base=0.62, tuned=0.605, delta=-0.015, low=-0.041, margin=0.05, holds=True,
            ),
            Margin(
                name="arithmetic", rows=90, base=0.31, tuned=0.25, delta=-0.06, low=-0.11, margin=0.05, holds=False,
            ),
        ),
        answers={
            "base": Answers(seconds=1.82, slow_seconds=2.4, tokens=38.2, cut=21),
            "tuned": Answers(seconds=0.71, slow_seconds=0.98, tokens=15.4, cut=0),
        },
        outcomes={outcome: outcomes[outcome] for outcome in OUTCOMES},
        shown=tuple(sorted(rows, key=lambda row: OUTCOMES.index(row.outcome))),
        curves=Curves(
            loss=tuple(2.9 * math.exp(-step / 25) + 0.32 + drawn.uniform(-0.09, 0.09) for step in steps),
            learning_rate=tuple(
                3e-4 * min((step + 1) / 7, (1 + math.cos(math.pi * step / 222)) / 2) for step in steps
            ),
        ),
        training=Spent(seconds=1290.0, gpus=1, cost=1.36, currency="USD"),
        promoted=True,
    )  # fmt: skip


def _shown(name: str, messages: list[dict[str, str]], drawn: random.Random) -> ShownRow:
    *prompt, closing = messages
    reference = closing["content"]
    rambling = GradedAnswer(
        output=cut("The patient says that the drug helped, but"), score=0.0, reason="the output is not JSON"
    )
    right = GradedAnswer(output=cut(reference), score=1.0, reason="")
    half = reference.replace("positive", "neutral").replace("negative", "neutral")
    partly = GradedAnswer(output=cut(half), score=0.5, reason="sentiment differs from the expected output")
    kind, base, tuned = drawn.choices(
        [("win", rambling, right), ("win", rambling, partly), ("wrong", rambling, rambling),
         ("right", right, right), ("loss", right, partly)],
        weights=[55, 25, 8, 8, 4],
    )[0]  # fmt: skip
    near = drawn.random() < 0.5
    return ShownRow.model_validate(
        {
            "id": f"review-{name}", "row": int(name), "group": None, "outcome": kind, "base": base, "tuned": tuned,
            "prompt": cut("\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)),
            "reference": cut(reference),
            "related": [{"row": 214, "similarity": 0.61}, {"row": 530, "similarity": 0.48}] if near else [],
            "findings": [{"rule": "near_duplicate", "number": 32, "dataset": "train", "rows": [214]}] if near else [],
        }
    )  # fmt: skip


def memory() -> MemoryPlan:
    """An 8B model with LoRA on an H200, without gradient checkpointing."""
    parts = {
        "weights": 15.0,
        "adapter, gradients and optimizer": 0.6,
        "activations": 86.0,
        "loss": 1.0,
        "context": 1.5,
    }
    return MemoryPlan(
        fits=True, gpu="H200", gpus=1, peak_gib=sum(parts.values()), limit_gib=126.9, gpu_memory_gib=141.0,
        breakdown=parts, measured_peak_gib=98.7,
        chosen=Settings(zero_stage=0, micro_batch_tokens=4096,
                        gradient_checkpointing="Disabled", offload="None"),
    )  # fmt: skip


def estimate(tokens: int) -> Estimate:
    """A price with bounds, a budget and a saving."""
    return Estimate(
        tokens=tokens, hours=0.62, hours_low=0.5, hours_high=0.95, cost=2.36, cost_low=1.9, cost_high=3.61,
        currency="USD", mfu=0.38, calibrated=True, budget=5.0, savings=Savings(per_month=1500, break_even_days=0.05),
    )  # fmt: skip


def review_tokens() -> list[Token]:
    """The first drug review in the layout of ChatML, split into words instead of a real tokenizer's tokens."""
    asked, answered = json.loads(REVIEWS.open(encoding="utf-8").readline())["messages"]
    turns = [("user", asked["content"]), ("assistant", answered["content"])]
    return [token for role, text in turns for token in _turn(role, text)]


def _turn(role: str, text: str) -> list[Token]:
    trained = role == "assistant"
    head = [_token("<|im_start|>", special=True), _token(role), _token("\n")]
    body = [_token(piece, trained=trained) for piece in re.findall(r" ?\w+|\n|[^\w\s]| ", text)]
    return [*head, *body, _token("<|im_end|>", trained=trained, special=True), _token("\n")]


def _token(text: str, trained: bool = False, special: bool = False) -> Token:
    return Token(text=text, id=sum(text.encode()) % 49152, trained=trained, special=special)


def _groups() -> tuple[DuplicateGroup, ...]:
    return (
        DuplicateGroup(rows=(3, 13, 23), similarity=1),
        DuplicateGroup(rows=(18, 214), similarity=0.97),
        DuplicateGroup(rows=(22, 91, 402), similarity=0.93),
        DuplicateGroup(rows=(107, 230), similarity=0.91),
        DuplicateGroup(rows=(331, 417, 466), similarity=0.88),
    )


def main(folder: Path) -> None:
    """Write the examples."""
    for name, report in {
        "clean": clean(),
        "refused": refused(),
        "full": full(),
        "evaluated": evaluated(),
    }.items():
        (folder / f"{name}.html").write_text(report_html(report), encoding="utf-8")
        (folder / f"{name}.txt").write_text(terminal_report(report, width=100), encoding="utf-8")
        (folder / f"{name}.json").write_text(report.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
