"""Two AdapterDeployments that want one alias, and the server between them."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.plan import plan
from tests.unit.server.builders import NOW, SETTINGS, World, adapter, pod, version

OLD, YOUNG = version("reviews", "a"), version("reviews", "b")


class Namespace:
    """A server and the AdapterDeployments on it, reconciled in turns; its pod does at once what it is told."""

    def __init__(self) -> None:
        self.world = World()
        self.objects: dict[str, AdapterDeployment] = {}
        self.missed = 0

    def create(self, name: str, created: str, digit: str, **spec: Any) -> None:
        self.objects[name] = adapter(name, "reviews", created, digit=digit, **spec)
        self.settle()

    def delete(self, name: str) -> None:
        del self.objects[name]
        self.settle()

    def settle(self) -> None:
        for _ in range(6):
            answered = self.answers is not None
            self.world.deployments = tuple(self.objects.values())
            generation = self.world.status.get("manifestGeneration", 0)
            self.world.pods = (pod(OLD, YOUNG, applied=generation),)
            self.world.reconcile()
            for name, mine in self.objects.items():
                decided = plan(Observed(mine, None, self.world.server), SETTINGS, NOW)
                body = {"metadata": mine.metadata.to_dict(), "spec": mine.spec.to_dict()}
                self.objects[name] = AdapterDeployment.model_validate({**body, "status": decided.status})
            self.missed += answered and self.answers is None

    @property
    def answers(self) -> str | None:
        """The object whose version answers the alias."""
        adapters = self.world.status.get("adapters", ())
        return next((one["deployment"] for one in adapters if one.get("servingVersion")), None)

    def reason(self, name: str) -> str:
        ready = self.objects[name].status.condition("Ready")
        assert ready is not None
        return ready.reason


def two() -> Namespace:
    """The older one serves, the younger one has asked in vain."""
    there = Namespace()
    there.create("old", "2026-01-01", "a")
    there.create("young", "2026-01-02", "b")
    assert (there.answers, there.reason("young")) == ("old", "AliasConflict")
    return there


def test_the_younger_one_does_not_inherit_the_alias() -> None:
    there = two()
    there.delete("old")
    assert (there.answers, there.reason("young")) == (None, "AliasConflict")


def test_an_object_that_is_created_anew_gets_its_alias_back() -> None:
    there = two()
    there.delete("old")
    there.create("old", "2026-01-03", "a")
    assert (there.answers, there.reason("young")) == ("old", "AliasConflict")


def test_with_consent_it_takes_the_alias_over_without_a_gap() -> None:
    there = two()
    young = there.objects["young"]
    spec = young.spec.model_copy(update={"take_over_alias": True})
    there.objects["young"] = young.model_copy(update={"spec": spec})
    there.settle()
    assert there.answers == "old"
    there.delete("old")
    assert (there.answers, there.reason("young"), there.missed) == ("young", "Serving", 0)
    assert there.objects["young"].status.alias_conflict is None


def test_without_a_conflict_the_next_object_takes_a_free_alias() -> None:
    there = Namespace()
    there.create("old", "2026-01-01", "a")
    there.delete("old")
    there.create("young", "2026-01-02", "b")
    assert (there.answers, there.reason("young")) == ("young", "Serving")
