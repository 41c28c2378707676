"""What a job leaves out is chosen by its rows and its GPUs, and what it says is used as it is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import Spec
from finetune_trainer.errors import UserError
from finetune_trainer.planning.defaults import default_rate, effective_batch, make_plan, share_of_batch
from finetune_trainer.planning.lengths import measure


def _spec(**parts: Any) -> Spec:
    base = {
        "baseModel": {"source": "pvc://m/m"},
        "dataset": {"source": "pvc://d/d"},
        "output": {"destination": "pvc://o/o"},
    }
    return Spec.model_validate({**base, **parts})


@pytest.mark.parametrize(
    ("method", "steps", "rate"),
    [("LoRA", 99, 3e-4), ("LoRA", 100, 2e-4), ("QLoRA", 100, 2e-4), ("Full", 99, 2e-5), ("Full", 100, 2e-5)],
)
def test_the_default_rate_is_ten_times_the_full_rate_or_fifteen_in_short_runs(
    method: str, steps: int, rate: float
) -> None:
    assert default_rate(method, steps) == rate


def test_what_the_job_says_is_used_as_it_is() -> None:
    spec = _spec(
        training={"epochs": 1, "learningRate": "1e-3", "effectiveBatchSize": 4, "maxLength": 64, "seed": 0},
        lora={"rank": 4, "alpha": 8, "rankStabilized": True},
    )
    plan = make_plan(spec, measure([40] * 10), 128, ("q_proj", "v_proj"))
    assert plan.training() == {
        "epochs": 1, "learningRate": 1e-3, "effectiveBatchSize": 4, "maxLength": 64, "seed": 0, "steps": 3,
    }  # fmt: skip
    adapter = {"rank": 4, "alpha": 8, "rankStabilized": True, "targetModules": ["q_proj", "v_proj"]}
    assert plan.lora() == adapter


def test_the_length_follows_the_data_within_the_model() -> None:
    assert make_plan(_spec(), measure([9, 41]), 128, ()).max_length == 48
    assert make_plan(_spec(), measure([127]), 127, ()).max_length == 127
    assert make_plan(_spec(training={"maxLength": 256}), measure([41]), 128, ()).max_length == 128


def test_full_training_has_no_adapter() -> None:
    assert make_plan(_spec(method="Full"), measure([9] * 10), 99, ()).lora() is None


BATCHES = [
    ("on a CPU it is small", {"processesPerNode": 1}, "LoRA", [100] * 5000, 8),
    ("long rows fill a GPU by themselves", {"gpusPerNode": 1}, "LoRA", [2000] * 5000, 8),
    ("short rows are many", {"gpusPerNode": 1}, "LoRA", [200] * 5000, 21),
    ("LoRA takes no more than 32", {"gpusPerNode": 8}, "LoRA", [200] * 5000, 32),
    ("Full takes more", {"gpusPerNode": 8}, "Full", [600] * 5000, 56),
    ("and no more than 128", {"gpusPerNode": 8}, "Full", [100] * 5000, 128),
    ("few rows are seen in some steps", {"gpusPerNode": 1}, "LoRA", [50] * 300, 12),
    ("the least is 8", {"gpusPerNode": 1}, "LoRA", [50] * 100, 8),
    ("every process gets as many", {"gpusPerNode": 5, "nodes": 2}, "LoRA", [2000] * 5000, 30),
]


@pytest.mark.parametrize(
    ("resources", "method", "lengths", "batch"), [row[1:] for row in BATCHES], ids=[row[0] for row in BATCHES]
)
def test_the_default_batch(resources: dict[str, int], method: str, lengths: list[int], batch: int) -> None:
    assert effective_batch(_spec(resources=resources, method=method), measure(lengths)) == batch


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(1, 64), st.integers(1, 4000), st.integers(1, 2000))
def test_the_default_batch_fits_any_number_of_gpus(gpus: int, nodes: int, length: int, rows: int) -> None:
    spec = _spec(resources={"gpusPerNode": gpus, "nodes": nodes})
    batch = effective_batch(spec, measure([length] * rows))
    assert batch % spec.resources.processes == 0
    assert 8 <= batch < 32 + spec.resources.processes


def test_a_batch_that_processes_cannot_share_is_refused_with_the_next_one() -> None:
    assert share_of_batch(12, 4) == 3
    with pytest.raises(
        UserError, match=r"effectiveBatchSize is 6 for 4 processes; .* multiple of 4, such as 8"
    ):
        share_of_batch(6, 4)
