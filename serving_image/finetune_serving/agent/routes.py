"""Where each alias points in this pod, and why one has no answer: pure functions.

Routes come into force alias by alias. One that answers goes on until the versions it should move to are
Ready here; one whose version cannot be had is in force all the same, and its clients are told why.
"""

from collections.abc import Iterable, Mapping

from finetune_serving.agent.record import Record, given_up, refused
from finetune_serving.documents import AliasState, Route, ServerManifest, Target, TargetState

STALLED_SECONDS = 150.0  # longer than one load may take: a version that is being loaded is waited for


def ready_versions(records: Mapping[str, Record]) -> frozenset[str]:
    """The versions that answer."""
    return frozenset(name for name, record in records.items() if record.phase == "Ready")


def unavailable_versions(
    names: Iterable[str], records: Mapping[str, Record], *, stalled: bool
) -> frozenset[str]:
    """Those that nobody should wait for; `stalled`: for long no version has come nearer to Ready."""
    missing = frozenset(names) - ready_versions(records)
    return frozenset(name for name in missing if stalled or name not in records or given_up(records[name]))


def in_force(
    manifest: ServerManifest,
    before: Mapping[str, Route],
    ready: frozenset[str],
    unavailable: frozenset[str],
) -> dict[str, Route]:
    """The route of each alias; an alias that the manifest no longer names is gone at once."""
    return {
        wanted.alias: _in_force(wanted, before.get(wanted.alias), ready, unavailable)
        for wanted in manifest.routes
    }


def _in_force(
    wanted: Route, current: Route | None, ready: frozenset[str], unavailable: frozenset[str]
) -> Route:
    if current is None or versions_of(wanted) <= ready:
        return wanted
    return wanted if versions_of(current) <= unavailable else current


def settled(manifest: ServerManifest, ready: frozenset[str], unavailable: frozenset[str]) -> bool:
    """Whether every alias has the route that the manifest asks for, as far as it can be had."""
    return manifest.routed() <= ready | unavailable


def versions_of(route: Route) -> frozenset[str]:
    """The versions that a route names."""
    return frozenset(target.version for target in route.targets)


def drawn_versions(route: Route) -> frozenset[str]:
    """The versions that may answer who asks for none: one with weight 0 only answers who asks for it."""
    drawn = frozenset(target.version for target in route.targets if target.weight > 0)
    return drawn or frozenset({route.targets[0].version})


def answering(route: Route, ready: frozenset[str]) -> tuple[Target, ...]:
    """The targets with the weights in force: one that cannot answer gets no share while another can."""
    if not drawn_versions(route) & ready:
        return route.targets
    able = [target for target in route.targets if target.version in ready]
    others = [target for target in route.targets if target.version not in ready]
    return (*able, *(target.model_copy(update={"weight": 0}) for target in others))


def alias_states(
    manifest: ServerManifest, routes: Mapping[str, Route], records: Mapping[str, Record], *, engine_up: bool
) -> tuple[AliasState, ...]:
    """What /state says of each routed alias."""
    wanted = {route.alias: route for route in manifest.routes}
    ready = ready_versions(records)
    states = []
    for alias, route in sorted(routes.items()):
        missing = next((t.version for t in wanted.get(alias, route).targets if t.version not in ready), None)
        reason, message = ("", "") if missing is None else _why(missing, records.get(missing))
        if not engine_up:
            reason, message = "EngineDown", "The engine of this pod is down."
        states.append(_alias_state(route, ready if engine_up else frozenset(), reason, message))
    return tuple(states)


def _alias_state(route: Route, ready: frozenset[str], reason: str, message: str) -> AliasState:
    targets = answering(route, ready)
    return AliasState(
        alias=route.alias,
        targets=tuple(TargetState(version=t.version, weight=t.weight) for t in targets),
        answers=bool(drawn_versions(route) & ready),
        reason=reason,
        message=message,
    )


def _why(version: str, record: Record | None) -> tuple[str, str]:
    if record is None:
        return "NotListed", f"The server manifest routes requests to {version}, but does not list it."
    said = record.message or "it is not Ready yet."
    return record.reason or record.phase, f"{version}: {said}"


def refusals(
    states: tuple[AliasState, ...], routes: Mapping[str, Route], unavailable: frozenset[str]
) -> dict[str, str]:
    """The sentence for clients of each alias that cannot be had: no path, no other version.

    An alias whose version is being loaded is not among them: its requests may wait a moment.
    """
    return {
        state.alias: f"The model `{state.alias}` cannot be answered here at the moment ({state.reason}); "
        "the status of its AdapterDeployment says why."
        for state in states
        if drawn_versions(routes[state.alias]) <= unavailable
    }


def refused_candidates(manifest: ServerManifest, records: Mapping[str, Record]) -> dict[str, str]:
    """Why each candidate that is not tried again cannot be had, for the run that waits for it."""
    found = ((name, records[name]) for name in manifest.on_trial() if name in records)
    return {name: f"{record.reason}: {record.message}" for name, record in found if refused(record)}
