"""Digests, and the documents between the packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_operator.contracts.digests import digest_of, input_digest, spec_digest
from finetune_operator.contracts.job import JobLora, JobSpec, PublishSpec, job_spec

SAMPLES = Path(__file__).resolve().parents[3] / "crds" / "samples"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def _spec(**changes: Any) -> FineTuneJobSpec:
    body = yaml.safe_load((SAMPLES / "finetunejob-full.yaml").read_text())
    return FineTuneJob.model_validate({**body, "spec": {**body["spec"], **changes}}).spec


@settings(deadline=None)  # other work shares the processor
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_a_digest_ignores_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(list(value.items()))))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"method": "Full", "lora": None}, False),
        ({"training": {"epochs": 2}}, False),
        ({"dataset": {"source": "pvc://a/b"}}, False),
        ({"evaluation": {"accept": ["EvalMissing"]}}, False),
        ({"output": {"destination": "pvc://other/place"}}, True),
        ({"resources": {"nodes": 1}}, True),
        ({"suspend": True}, True),
        ({"goal": "Knowledge"}, True),
        ({"knowledgeChanges": "Daily"}, True),
        ({"budget": {"limit": "9", "currency": "EUR"}}, True),
        ({"savings": None}, True),
    ],
    ids=[
        "method",
        "training",
        "dataset",
        "no hold-out",
        "destination",
        "resources",
        "suspend",
        "goal",
        "pace",
        "budget",
        "savings",
    ],
)
def test_the_spec_digest_covers_what_decides_the_result(change: dict[str, Any], same: bool) -> None:
    assert (spec_digest(_spec(**change)) == spec_digest(_spec())) is same


@pytest.mark.parametrize(
    ("section", "ease"),
    [
        ("dataset", {"rules": {"too_few": "Info"}}),
        ("training", {"microBatchTokens": 512}),
        ("training", {"gradientCheckpointing": "Disabled"}),
        ("training", {"zeroStage": 3}),
        ("training", {"offload": "All"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_only_eases_the_way_changes_no_spec_digest(section: str, ease: dict[str, Any]) -> None:
    given = yaml.safe_load((SAMPLES / "finetunejob-full.yaml").read_text())["spec"]
    changed = _spec(**{section: {**given[section], **ease}})
    assert spec_digest(changed) == spec_digest(_spec())
    assert input_digest("prepare", changed) != input_digest("prepare", _spec())


def test_a_section_with_nothing_but_such_settings_is_as_good_as_none() -> None:
    assert spec_digest(_spec(training={"zeroStage": 2})) == spec_digest(_spec(training=None))


def test_results_that_were_published_before_these_fields_existed_are_still_adopted() -> None:
    """The digest of the smallest sample as the first operator wrote it into manifests."""
    body = yaml.safe_load((SAMPLES / "finetunejob-minimal.yaml").read_text())
    assert spec_digest(FineTuneJob.model_validate(body).spec) == (
        "sha256:1c42228d8a6187b1c088a5f248bc5f67265602bc9dcdb16dde46091ddfc12da9"
    )


class _GrownLora(JobLora):
    later: int | None = None


class _GrownSpec(JobSpec):
    """The part of a spec in job.json as a later operator could write it: with two more optional fields."""

    lora: _GrownLora | None = None
    later: str | None = None


def _grown(**changes: Any) -> _GrownSpec:
    return _GrownSpec.model_validate({**job_spec(_spec()).to_json_value(), **changes})


@pytest.mark.parametrize(
    "digest", [spec_digest, lambda spec: input_digest("train", spec)], ids=["spec", "input"]
)
def test_an_optional_field_that_comes_with_an_upgrade_changes_no_digest_until_it_is_set(
    digest: Callable[[FineTuneJobSpec | JobSpec], str],
) -> None:
    assert digest(_grown()) == digest(_spec())
    assert digest(_grown(lora={"rank": 16, "later": 3})) != digest(_grown(lora={"rank": 16}))


def test_a_margin_decides_about_the_result() -> None:
    given = yaml.safe_load((SAMPLES / "finetunejob-full.yaml").read_text())["spec"]["evaluation"]
    first, second, *others = given["graders"]
    stricter = _spec(evaluation={**given, "graders": [first, {**second, "margin": "0.01"}, *others]})
    assert spec_digest(stricter) != spec_digest(_spec())


def test_accepting_a_verdict_keeps_both_digests() -> None:
    given = yaml.safe_load((SAMPLES / "finetunejob-full.yaml").read_text())["spec"]["evaluation"]
    accepted = _spec(evaluation={**given, "accept": ["NoClearImprovement"]})
    assert spec_digest(accepted) == spec_digest(_spec())
    assert input_digest("evaluate", accepted) == input_digest("evaluate", _spec())


def test_the_input_digest_tells_stages_and_decisions_apart() -> None:
    spec, yes, no = _spec(), PublishSpec(promoted=True), PublishSpec(promoted=False)
    digests = [input_digest("train", spec), input_digest("evaluate", spec)]
    digests += [input_digest("publish", spec, yes), input_digest("publish", spec, no)]
    assert len(set(digests)) == 4


def test_a_default_that_is_written_out_changes_no_digest() -> None:
    evaluation = yaml.safe_load((SAMPLES / "finetunejob-full.yaml").read_text())["spec"]["evaluation"]
    without = {key: value for key, value in evaluation.items() if key != "gate"}
    assert spec_digest(_spec(evaluation=without)) == spec_digest(_spec(evaluation=evaluation))


def test_credentials_never_reach_job_json() -> None:
    assert "hub-token" not in job_spec(_spec()).to_json()
