"""How many processes a pod without GPUs trains in when the job leaves it open."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.container import multiplies_in_bf16, usable_memory, whole_cores
from finetune_trainer.contracts import Job
from finetune_trainer.errors import OutOfMemory
from finetune_trainer.launch import gang as process_1
from finetune_trainer.launch import processes
from finetune_trainer.launch.outcome import decide
from finetune_trainer.launch.processes import Pod, choose, default_processes, pod_bytes
from finetune_trainer.launch.torchrun import Gang
from finetune_trainer.planning.memory import GIB, Setup
from finetune_trainer.workspace import Workspace
from tests.unit.trainer_base.shapes import (
    GEMMA3_4B,
    LLAMA_1B,
    LLAMA_8B,
    QWEN3_30B,
    SMOLLM2_135M,
    shape_by_config,
)
from tests.unit.trainer_train.launch.gangs import free_port, train

SMALL, MIDDLE, LARGE = map(shape_by_config, (SMOLLM2_135M, LLAMA_1B, LLAMA_8B))
LORA = Setup("LoRA", 1024, 16, gradient_checkpointing="Disabled")
FULL = Setup("Full", 1024, zero_stage=2, gradient_checkpointing="Disabled")
WHOLE = replace(FULL, zero_stage=0)


def pod(cores: int, gib: float, fast_bf16: bool = False) -> Pod:
    return Pod(cores, round(gib * GIB), fast_bf16)


CASES = [
    ("one process per core", pod(2, 64), 8, SMALL, LORA, 2),
    ("a single core has one", pod(1, 64), 8, SMALL, LORA, 1),
    ("a step of three rows is enough for three", pod(8, 640), 3, SMALL, LORA, 3),
    ("rows need not be divisible by the processes", pod(3, 64), 8, SMALL, LORA, 3),
    ("never more than the field allows", pod(64, 2000), 128, SMALL, LORA, 16),
    ("a small pod holds one base", pod(2, 4), 8, SMALL, LORA, 1),
    ("bf16 takes half of what fp32 takes", pod(2, 6, fast_bf16=True), 8, SMALL, LORA, 2),
    ("a base of 8B in 128 GiB is there twice in fp32", pod(8, 128), 8, LARGE, LORA, 2),
    ("and four times in bf16", pod(8, 128, fast_bf16=True), 8, LARGE, LORA, 4),
    ("even a pod that is too small for one has one", pod(8, 1), 8, LARGE, LORA, 1),
    ("Full shares its optimizer state", pod(8, 128), 8, MIDDLE, FULL, 7),
    ("Full without ZeRO holds all of it in each", pod(8, 128), 8, MIDDLE, WHOLE, 3),
    ("Full is fp32 whatever the processor can do", pod(8, 128, fast_bf16=True), 8, MIDDLE, WHOLE, 3),
    ("a base of unknown shape has one", pod(8, 640), 8, None, LORA, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("pod", "rows", "shape", "setup", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_as_many_as_cores_rows_and_memory_allow(
    pod: Pod, rows: int, shape: Any, setup: Setup, expected: int
) -> None:
    assert choose(pod, rows, shape, setup) == expected


@given(
    st.integers(1, 128),
    st.floats(1, 4096),
    st.booleans(),
    st.integers(1, 1024),
    st.sampled_from([LORA, FULL]),
)
def test_the_choice_is_within_every_limit(
    cores: int, gib: float, fast_bf16: bool, rows: int, setup: Setup
) -> None:
    given_pod = pod(cores, gib, fast_bf16)
    chosen = choose(given_pod, rows, MIDDLE, setup)
    assert 1 <= chosen <= min(cores, rows, 16)
    assert chosen == 1 or pod_bytes(MIDDLE, setup, chosen, given_pod) < given_pod.memory


# Memory of all workers of SmolLM2-135M in GB: private and shared pages at their highest, with micro-batches of
# 1,020 tokens (rows of 170) of which nine tenths or all are trained. AMD EPYC, 2026-11-27.
MEASURED = [
    ("LoRA in bf16 by two", LORA, 2, True, 4.72),
    ("LoRA in fp32 by two", LORA, 2, False, 6.72),
    ("QLoRA in bf16 by two", replace(LORA, method="QLoRA"), 2, True, 5.22),
    ("QLoRA in fp32 by two", replace(LORA, method="QLoRA"), 2, False, 7.17),
    ("Full by one", FULL, 1, False, 6.34),
    ("Full by two", FULL, 2, False, 9.55),
    ("Full without ZeRO by two", WHOLE, 2, False, 7.35),
]


@pytest.mark.parametrize(
    ("setup", "number", "fast_bf16", "measured"),
    [case[1:] for case in MEASURED],
    ids=[case[0] for case in MEASURED],
)
def test_a_pod_needs_no_more_than_is_expected(
    setup: Setup, number: int, fast_bf16: bool, measured: float
) -> None:
    expected = pod_bytes(SMALL, setup, number, pod(number, 64, fast_bf16)) / 1e9
    assert measured < expected < 1.75 * measured


def test_the_logits_count_every_word_of_a_vocabulary_whose_embedding_is_narrower_than_the_model() -> None:
    """OPT-350m projects an embedding of half the model's width."""
    narrow, longer = replace(SMALL, embedding=SMALL.embedding // 2), replace(LORA, tokens=2 * LORA.tokens)
    one = pod(1, 64)
    by_tokens = [
        pod_bytes(shape, longer, 1, one) - pod_bytes(shape, LORA, 1, one) for shape in (narrow, SMALL)
    ]
    assert by_tokens[0] == pytest.approx(by_tokens[1])


def test_loading_a_mixture_under_zero_3_joins_its_experts_in_every_process() -> None:
    mixture, shared = shape_by_config(QWEN3_30B), replace(LORA, zero_stage=3)
    assert mixture.experts is not None
    needed = pod_bytes(mixture, shared, 2, pod(2, 640, fast_bf16=True))
    assert needed > 2 * 2 * mixture.experts.parameters


def job(**resources: int) -> Job:
    spec = {
        "baseModel": {"source": "pvc://base/model"},
        "dataset": {"source": "configmap://d/train.jsonl"},
        "output": {"destination": "pvc://adapters/x"},
        "resources": {"gpusPerNode": 0, **resources},
    }
    return Job.model_validate({
        "schemaVersion": 1, "namespace": "demo", "name": "x", "uid": "u", "stage": "train", "attempt": 1,
        "specDigest": "sha256:" + "0" * 64, "inputDigest": "sha256:" + "1" * 64, "spec": spec,
    })  # fmt: skip


SUMMARY = {
    "rows": 586, "training": {"effectiveBatchSize": 8}, "longestRow": 64, "method": "LoRA", "lora": {"rank": 16},
}  # fmt: skip


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "whole_cores", lambda: 4)
    monkeypatch.setattr(processes, "usable_memory", lambda: 64 * GIB)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("resources", "expected"),
    [({}, 4), ({"nodes": 2}, 1), ({"gpusPerNode": 1}, 1)],
    ids=["one pod uses its cores", "pods of a gang must agree", "a GPU has one process"],
)
def test_only_a_single_pod_without_gpus_chooses(
    tiny_model: Path, resources: dict[str, int], expected: int
) -> None:
    assert default_processes(job(**resources), SUMMARY, tiny_model) == expected


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("rows", "batch", "expected"),
    [(3, 8, 3), (586, 2, 2), (1, 8, 1)],
    ids=["fewer rows than a step takes", "a step takes fewer than there are", "a single row"],
)
def test_every_process_has_a_row_in_a_step(tiny_model: Path, rows: int, batch: int, expected: int) -> None:
    summary = SUMMARY | {"rows": rows, "training": {"effectiveBatchSize": batch}}
    assert default_processes(job(), summary, tiny_model) == expected


@pytest.mark.usefixtures("four_cores")
def test_a_base_that_cannot_be_measured_trains_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GEMMA3_4B))  # other inputs than text, and no weights
    assert default_processes(job(), SUMMARY, tmp_path) == 1


@pytest.mark.parametrize(
    ("resources", "chosen", "advised"),
    [
        ({}, 2, True),
        ({}, 1, False),
        ({"processesPerNode": 2}, 2, False),
        ({"gpusPerNode": 2}, 2, False),
    ],
    ids=["the pod chose two", "the pod chose one", "the job asks for two", "two GPUs"],
)
def test_a_pod_without_memory_is_told_to_train_in_one_process_where_it_chose_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: dict[str, int], chosen: int, advised: bool
) -> None:
    (tmp_path / "pvc/base/model").mkdir(parents=True)
    monkeypatch.setenv("FT_SOURCES_ROOT", str(tmp_path))
    monkeypatch.setattr(process_1, "check_prepared", lambda *_: SimpleNamespace(summary={}))
    monkeypatch.setattr(process_1, "read_gang", lambda *_: Gang(1, chosen, 0, "127.0.0.1"))
    killed = decide([], chosen, 1, terminated=False, out_of_memory=True)
    monkeypatch.setattr(process_1, "_supervise", lambda *_: killed)
    with pytest.raises(OutOfMemory, match=r"resources\.memory") as caught:
        process_1.run(tmp_path, job(**resources), Workspace(tmp_path))
    assert ("processesPerNode: 1" in str(caught.value)) is advised


@pytest.fixture
def busy_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of 24 GiB on which other pods have left 1 GiB."""
    memory = SimpleNamespace(total=24 * GIB, available=GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.usefixtures("busy_node")
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("memory.max", f"{6 * GIB}\n", 6 * GIB),
        ("memory/memory.limit_in_bytes", f"{6 * GIB}\n", 6 * GIB),
        ("memory.max", "max\n", 12 * GIB),
        ("memory/memory.limit_in_bytes", f"{2**63 - 4096}\n", 12 * GIB),
        ("absent", "", 12 * GIB),
    ],
    ids=["cgroup v2", "cgroup v1", "cgroup v2 without a limit", "cgroup v1 without a limit", "no cgroup"],
)
def test_a_pod_counts_on_its_limit_or_half_its_node_whatever_others_use(
    tmp_path: Path, name: str, text: str, expected: int
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert usable_memory(tmp_path) == expected


@pytest.mark.usefixtures("busy_node")
@pytest.mark.parametrize("fast_bf16", [True, False], ids=["bf16", "fp32"])
def test_the_example_without_a_memory_limit_trains_in_two_processes(tmp_path: Path, fast_bf16: bool) -> None:
    assert choose(Pod(2, usable_memory(tmp_path), fast_bf16), 8, SMALL, LORA) == 2


@pytest.mark.parametrize(("quota", "expected"), [(1000, 1), (1500, 1), (500, 1)])
def test_a_part_of_a_core_is_not_enough_for_a_process(tmp_path: Path, quota: int, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 1000\n")
    assert whole_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx2", False)],
    ids=["AVX-512 with bf16", "AMX", "neither"],
)
def test_the_processor_says_whether_it_multiplies_in_bf16(tmp_path: Path, flags: str, fast: bool) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
    assert multiplies_in_bf16(info) is fast
    assert not multiplies_in_bf16(tmp_path / "absent")


@pytest.fixture
def two_cores() -> Iterator[None]:
    """This process and its children may run on two cores only."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    os.sched_setaffinity(0, sorted(before)[:2])
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_on_two_cores_two_processes_train_by_default_with_the_losses_of_one(
    train_run: Callable[..., Any],
) -> None:
    run = train_run("default")
    together = train(run, free_port(), processes=None)
    stored = json.loads(next(run.workspace.results_dir.glob("train-*.json")).read_text())
    assert stored["summary"]["worldSize"] == 2
    assert together == pytest.approx(train(train_run("alone"), free_port()), abs=2e-3)
