"""Which claims get a folder and which volumes go."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.cluster.bootstrap import PROVISIONER, STORAGE_CLASS
from dev.cluster.provisioner import Claim, Plan, Volume, manifest, plan

CLAIM = Claim("demo", "work", "uid-1", STORAGE_CLASS, ("ReadWriteMany",), "1Gi", pending=True)
VOLUME = Volume(CLAIM.volume, "Bound", "/volumes/pvc-uid-1", PROVISIONER)


def changed(record, **fields):
    return type(record)(**{**record.__dict__, **fields})


@pytest.mark.parametrize(
    ("claims", "volumes", "wanted"),
    [
        pytest.param([CLAIM], [], Plan((CLAIM,), ()), id="a pending claim of our class gets a volume"),
        pytest.param([CLAIM], [VOLUME], Plan((), ()), id="a volume that exists is not made again"),
        pytest.param([changed(CLAIM, pending=False)], [], Plan((), ()), id="a bound claim gets nothing"),
        pytest.param(
            [changed(CLAIM, storage_class="fast")], [], Plan((), ()), id="another class is somebody else's"
        ),
        pytest.param([changed(CLAIM, storage_class=None)], [], Plan((), ()), id="no class gets nothing"),
        pytest.param(
            [],
            [changed(VOLUME, phase="Released")],
            Plan((), (changed(VOLUME, phase="Released"),)),
            id="a volume whose claim is gone goes",
        ),
        pytest.param(
            [],
            [changed(VOLUME, phase="Released", provisioner="")],
            Plan((), ()),
            id="a released volume that an administrator made stays",
        ),
        pytest.param([], [VOLUME], Plan((), ()), id="a bound volume stays"),
    ],
)
def test_plan(claims, volumes, wanted):
    assert plan(claims, volumes) == wanted


@given(st.lists(st.sampled_from(["Bound", "Released", "Available", "Failed", ""])), st.integers(0, 5))
def test_only_released_volumes_are_ever_removed(phases, count):
    claims = [changed(CLAIM, uid=f"u{n}") for n in range(count)]
    volumes = [changed(VOLUME, name=f"pvc-u{n}", phase=phase) for n, phase in enumerate(phases)]
    found = plan(claims, volumes)
    assert all(volume.phase == "Released" for volume in found.remove)
    assert {claim.volume for claim in found.create} == {claim.volume for claim in claims} - {
        volume.name for volume in volumes
    }


def test_a_volume_is_meant_for_its_claim_alone_and_offers_what_was_asked_for():
    spec = manifest(CLAIM, Path("/volumes/pvc-uid-1"), "node-a")["spec"]
    assert spec["claimRef"]["uid"] == "uid-1"
    assert spec["accessModes"] == ["ReadWriteMany"]
    assert spec["capacity"] == {"storage": "1Gi"}
    terms = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == ["node-a"]
