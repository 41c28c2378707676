"""The steps of a rollout: forward, held, back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.rollout import Rollout, RolloutRecord
from finetune_operator.canary.machine import PROMOTED, Change, Look, advance, hold_ends
from tests.unit.canary.builders import (
    CHANGE,
    LIMIT,
    NEW,
    NEW_DIGEST,
    NOW,
    OLD,
    OLD_DIGEST,
    STEPS,
    VERIFIED,
    after,
    first_step,
    rollout,
    told,
)

ANALYSED = rollout(analysis=LIMIT)
BACK = Change("reviews", 3, OLD, OLD_DIGEST, NEW)
"""The field is reverted while the new version has every request."""


def test_without_analysis_the_steps_pass_by_time() -> None:
    spec, record, seen = rollout(), None, []
    for second in (0, 59, 60, 100, 179, 180, 181):
        record = after(spec, record, second)
        seen.append((record.phase, record.step, record.weight))
    first, second_step = ("Shift", 1, 10), ("Shift", 2, 50)
    promoted = ("Promote", 2, 100)
    assert seen == [first, first, second_step, second_step, second_step, promoted, promoted]


COMING = [("Preflight", "Preflight"), ("Load", "Load"), ("Verify", "Verify")]


@pytest.mark.parametrize(("coming", "phase"), COMING)
def test_before_every_replica_has_verified_it_it_gets_nothing(coming: Any, phase: str) -> None:
    record = after(rollout(), None, 500, verified=False, coming=coming)
    assert (record.phase, record.weight, record.step) == (phase, 0, 0)


LEAVING = ["Promote", "Drain", "Unload", "Complete"]


@pytest.mark.parametrize("leaving", LEAVING)
def test_with_every_request_it_waits_for_the_version_before_to_leave(leaving: Any) -> None:
    record = after(rollout(), first_step(rollout()), 0, change=replace(CHANGE, stable=NEW), leaving=leaving)
    assert (record.phase, record.weight) == (leaving, 100)


WAITS = [
    pytest.param({}, 59, (100, 0), {}, "Holding", id="its time is not over"),
    pytest.param({}, 60, (99, 0), {}, "WaitingForRequests", id="one request too few to judge"),
    pytest.param({}, 9999, (0, 0), {}, "WaitingForRequests", id="no requests at all, however long"),
    pytest.param({}, 60, (100, 3), {}, "Inconclusive", id="above the limit, which may be chance"),
    pytest.param({}, 60, (100, 0), {"followed": False}, "Rolling", id="a replica still has the routes before"),
    pytest.param({}, 60, (100, 0), {"verified": False}, "Rolling", id="a replica lost the version"),
    pytest.param({"paused": True}, 60, (100, 0), {}, "Paused", id="the user paused it"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "second", "canary", "look", "reason"), WAITS)
def test_a_step_goes_on(
    spec: dict[str, Any], second: int, canary: tuple[int, int], look: dict[str, Any], reason: str
) -> None:
    record = first_step(ANALYSED, told())
    record = after(
        rollout(analysis=LIMIT, **spec), record, second, told((900, 0), canary), change=CHANGE, **look
    )
    assert (record.phase, record.weight, record.reason) == ("Shift", 10, reason)


def test_a_step_passes_with_its_time_over_and_the_limits_kept() -> None:
    record = after(ANALYSED, first_step(ANALYSED, told()), 60, told((900, 0), (100, 2)))
    assert (record.step, record.weight, record.verdict) == (2, 50, "Waiting")
    assert record.counts is not None
    assert record.counts.canary.requests == 0, "each step counts anew"


@pytest.mark.parametrize("second", [1, 59, 600])
def test_a_version_that_fails_goes_back_at_once_with_the_numbers(second: int) -> None:
    record = after(ANALYSED, first_step(ANALYSED, told()), second, told((900, 0), (40, 20)))
    assert (record.phase, record.weight, record.reason, record.verdict) == (
        "RolledBack",
        0,
        "RolledBack",
        "Fail",
    )
    assert "20 of 40 requests failed, maxErrorRate is 0.02" in record.message


def test_a_version_that_no_replica_can_have_ends_the_rollout() -> None:
    record = after(
        rollout(), first_step(rollout()), 1, verified=False, given_up="No replica can have it: no."
    )
    assert record.phase == "RolledBack"
    assert record.message.startswith("No replica can have it: no.")


def test_without_automatic_rollback_the_rollout_stops_and_says_what_to_do() -> None:
    spec = rollout(analysis=LIMIT, autoRollback=False)
    record = after(spec, first_step(spec, told()), 60, told((900, 0), (40, 20)))
    assert (record.phase, record.weight, record.reason) == ("Shift", 10, "AnalysisFailed")
    assert "spec.rollout.abort" in record.message


def test_a_pause_does_not_stop_the_way_back() -> None:
    spec = rollout(analysis=LIMIT, paused=True)
    record = after(spec, first_step(ANALYSED, told()), 1, told((900, 0), (40, 20)))
    assert record.phase == "RolledBack"


def test_paused_from_the_start_it_is_verified_and_waits_without_requests() -> None:
    record = after(rollout(paused=True), None, 0)
    assert (record.phase, record.step, record.weight, record.reason) == ("Shift", 0, 0, "Paused")
    assert after(rollout(), record, 1).weight == 10


def rolled_back() -> RolloutRecord:
    return after(ANALYSED, first_step(ANALYSED, told()), 1, told((900, 0), (40, 20)))


def test_what_was_rolled_back_is_not_tried_again_until_the_spec_changes() -> None:
    record = rolled_back()
    assert after(ANALYSED, record, 9999) == record
    again = after(ANALYSED, record, 9999, change=replace(CHANGE, generation=3))
    assert (again.phase, again.weight) == ("Shift", 10)


def test_edits_in_the_middle_of_a_rollout_are_no_reason_to_try_it_again() -> None:
    paused = after(rollout(analysis=LIMIT, paused=True), first_step(ANALYSED, told()), 1,
                   told((9, 0), (1, 1)), change=replace(CHANGE, generation=3))  # fmt: skip
    last = replace(CHANGE, generation=4)
    back = after(ANALYSED, paused, 2, told((900, 0), (40, 20)), change=last)
    assert back.phase == "RolledBack"
    assert after(ANALYSED, back, 3, change=last).phase == "RolledBack"


def test_a_replica_that_lost_the_version_delays_its_promotion_and_keeps_its_share() -> None:
    record = after(rollout(promote=NEW_DIGEST), first_step(ANALYSED, told()), 1, verified=False)
    assert (record.phase, record.weight) == ("Shift", 10)


def test_without_analysis_requests_change_nothing_that_is_remembered() -> None:
    record = after(rollout(), first_step(rollout(), told()), 1, told((900, 0), (100, 50)))
    assert record.counts is None
    assert after(rollout(), record, 2, told((990, 0), (110, 55))) == record


def test_an_analysis_that_is_added_in_a_step_counts_from_then_on() -> None:
    record = after(ANALYSED, first_step(rollout()), 1, told((900, 0), (100, 50)))
    record = after(ANALYSED, record, 2, told((990, 0), (110, 50)))
    assert record.counts is not None
    assert (record.counts.canary.requests, record.counts.canary.failures) == (10, 0)


def test_promote_skips_the_steps_and_abort_ends_them() -> None:
    record = first_step(ANALYSED, told())
    assert after(rollout(promote=NEW_DIGEST), record, 1).phase == "Promote"
    ended = after(rollout(abort=NEW_DIGEST), record, 1)
    assert (ended.phase, ended.reason, ended.weight) == ("RolledBack", "Aborted", 0)


def test_promote_and_abort_of_other_adapters_mean_nothing() -> None:
    spec = rollout(promote=OLD_DIGEST, abort="sha256:" + "c" * 64)
    assert first_step(spec).reason == "Rolling"


def test_a_version_that_is_promoted_by_hand_is_verified_first() -> None:
    assert after(rollout(promote=NEW_DIGEST), None, 1, verified=False).phase == "Preflight"
    assert after(rollout(promote=NEW_DIGEST), None, 1).phase == "Promote"


def test_abort_before_the_first_step_keeps_it_from_starting() -> None:
    assert after(rollout(abort=NEW_DIGEST), None, 1, verified=False).reason == "Aborted"


def test_a_reverted_field_ends_the_rollout_in_the_middle_of_a_step() -> None:
    reverted = Change("reviews", 3, OLD, OLD_DIGEST, OLD)
    assert advance(ANALYSED, first_step(ANALYSED, told()), reverted, VERIFIED) is None


def promoted() -> RolloutRecord:
    record = after(rollout(promote=NEW_DIGEST), None, 0)
    return after(rollout(), record, 1, change=replace(CHANGE, stable=NEW), leaving="Complete")


def test_the_version_before_comes_back_without_steps_but_the_new_one_takes_them_again() -> None:
    back = after(rollout(), promoted(), 10, change=BACK)
    assert (back.phase, back.returning) == ("Promote", True)
    there = after(rollout(), back, 11, change=replace(BACK, stable=OLD), leaving="Complete")
    assert after(rollout(), there, 12, change=replace(CHANGE, generation=4)).weight == 10


def test_another_version_in_the_middle_begins_again() -> None:
    third = Change("reviews", 3, "reviews--cccccccccccc", "sha256:" + "c" * 64, OLD)
    record = after(ANALYSED, first_step(ANALYSED, told()), 30, told((90, 0), (5, 5)), change=third)
    assert (record.to_version, record.weight, record.since) == (third.to, 10, "2026-11-27T12:00:30Z")


def test_steps_may_be_edited_while_the_rollout_goes_on() -> None:
    record = first_step(rollout())
    edited = rollout(steps=[{"weight": 5, "holdSeconds": 60}, {"weight": 90, "holdSeconds": 60}])
    assert hold_ends(edited, record) is None
    assert (after(edited, record, 1).step, after(edited, record, 1).weight) == (2, 90)


def test_rollouts_beyond_the_number_that_a_server_counts_wait_for_their_turn() -> None:
    record = after(rollout(), None, 1, turn=False)
    assert (record.weight, record.reason) == (0, "WaitingForTurn")


def test_the_first_version_of_an_alias_has_no_record() -> None:
    assert advance(rollout(), None, replace(CHANGE, stable=NEW), VERIFIED) is None


DIGESTS = {OLD: OLD_DIGEST, NEW: NEW_DIGEST}
VERSIONS = st.sampled_from([OLD, NEW])
COUNTERS = st.lists(
    st.builds(
        lambda p, s, c, f: told((s, 0), (c, min(c, f)), p),
        st.sampled_from("ab"), st.integers(0, 500), st.integers(0, 500), st.integers(0, 50),
    ),
    max_size=2,
)  # fmt: skip
LOOKS = st.builds(
    Look, st.just(NOW), st.booleans(), st.booleans(), st.sampled_from(["Preflight", "Load", "Verify"]),
    st.sampled_from(LEAVING), st.sampled_from([None, None, "No replica can have it."]), st.booleans(),
    COUNTERS.map(tuple),
)  # fmt: skip
SPECS = st.builds(
    lambda paused, auto, analysed, promote, abort: rollout(
        paused=paused, autoRollback=auto, promote=promote, abort=abort, analysis=LIMIT if analysed else None
    ),
    st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([None, None, NEW_DIGEST]), st.sampled_from([None, None, OLD_DIGEST]),
)  # fmt: skip


@given(st.lists(st.tuples(SPECS, VERSIONS, st.integers(1, 3), LOOKS, st.integers(0, 200)), max_size=12))
def test_it_is_total_and_remembers_all_it_needs_in_its_record(
    looks: list[tuple[Rollout, str, int, Look, int]],
) -> None:
    record, stable, seconds, asked = None, OLD, 0, (OLD, 0)
    for spec, wanted, generation, look, pause in looks:
        seconds += pause
        change = Change("reviews", generation, wanted, DIGESTS[wanted], stable)
        look = replace(look, now=NOW + timedelta(seconds=seconds))
        found = advance(spec, record, change, look)
        assert found == advance(spec, record, change, look)
        stored = None if found is None else RolloutRecord.model_validate(found.to_dict())
        assert stored == found, "what is stored is what goes on"
        if wanted == stable:
            assert found is None or found.phase in PROMOTED
        if found is not None and found.phase == "Shift":
            assert found.weight in (0, *(step["weight"] for step in STEPS))
        if found is not None and found.weight > (record.weight if record is not None else 0):
            assert look.verified
            assert found.phase in PROMOTED or not spec.paused
        if record is not None and record.phase == "RolledBack" and asked == (wanted, generation):
            assert found == record, "only another spec tries it again"
        record, asked = found, (wanted, generation)
        if record is not None and record.phase in PROMOTED:
            stable = record.to_version
