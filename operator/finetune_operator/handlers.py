"""The only place that knows kopf.

kopf is the engine of the process: it logs in, watches our three kinds and brings every event of theirs, and
runs start and cleanup around the signals. Handlers keep the object and queue its key, nothing else: kopf does
not repeat an event whose handler failed, and what needs a finalizer or an annotation of kopf's on a user's
object (change handlers, timers, daemons) is left unused. The rest is ours because kopf has no notion of it: a
queue with one key per object that backs off, children selected by label, leadership by a Lease, and probes
that fail (its own endpoint answers 200 whatever its probes say). kopf does not say when one of its watches
stands still; cache/arrivals.py finds out. It runs in a replica that stands by too, so that its cache is warm.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Any

import kopf

from finetune_operator.runtime.configuration import Configuration
from finetune_operator.runtime.process.lifecycle import Process, StartError
from finetune_operator.runtime.resources import OURS

log = logging.getLogger(__name__)


async def serve(process: Process, configuration: Callable[[], Configuration], namespace: str | None) -> None:
    """Run kopf until SIGTERM, SIGINT or the failure of the process; `namespace` None serves all of them."""
    registry = kopf.OperatorRegistry()
    _register_life(registry, process)
    _register_login(registry, configuration)
    for resource in OURS:
        _register_watch(registry, process, resource.kind, resource.plural, resource.api_version)
    try:
        await kopf.operator(
            registry=registry,
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[namespace] if namespace is not None else [],
            stop_flag=process.ending,
        )
    except Exception:
        # A request of kopf's that the end interrupts can surface as an error: no reason to exit with one.
        if not process.asked_to_stop:
            raise
        log.info("kopf was interrupted", exc_info=True)
    finally:
        asyncio.get_running_loop().set_exception_handler(_after_kopf)


def _after_kopf(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """kopf leaves its watches half closed, and asyncio would log a traceback for each."""
    log.debug("left open at the end", extra={"what": context.get("message")})


def _register_life(registry: kopf.OperatorRegistry, process: Process) -> None:
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        _configure(settings)
        try:
            await process.start()
        except Exception as error:  # kopf would try again for ever
            if not isinstance(error, StartError):
                log.exception("start failed")
            process.fail(str(error))
        for number in (signal.SIGTERM, signal.SIGINT):  # after kopf has set its own
            asyncio.get_running_loop().add_signal_handler(number, process.ask_to_stop)

    async def stop(**_: Any) -> None:
        await process.stop()

    kopf.on.startup(registry=registry)(start)
    kopf.on.cleanup(registry=registry)(stop)


def _register_login(registry: kopf.OperatorRegistry, configuration: Callable[[], Configuration]) -> None:
    """kopf logs in with the same configuration as our own client, read again whenever a token is refused."""

    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection(configuration())

    kopf.on.login(registry=registry)(login)


def _register_watch(
    registry: kopf.OperatorRegistry, process: Process, kind: str, plural: str, api_version: str
) -> None:
    async def seen(type: str | None, event: kopf.RawEvent, **_: Any) -> None:  # noqa: A002
        found: dict[str, Any] = dict(event["object"])
        process.seen(kind, type == "DELETED", found)
        _let_go(event["object"])

    group, version = api_version.split("/")
    kopf.on.event(group, version, plural, registry=registry, id=f"seen-{plural}")(seen)


def _let_go(body: Any) -> None:
    """kopf holds the list that a watch began with for as long as the watch goes on; our cache has it too."""
    for part in ("spec", "status"):
        body.pop(part, None)
    body["metadata"].pop("managedFields", None)


class NoDifferences(kopf.DiffBaseStorage):
    """kopf copies every object to find out what changed in it, for change handlers, of which we have none."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


def _configure(settings: kopf.OperatorSettings) -> None:
    settings.persistence.diffbase_storage = NoDifferences()
    settings.posting.enabled = False  # our recorder folds equal events, kopf's posts each
    settings.scanning.disabled = True  # no list of namespaces and CRDs: their existence is checked before
    settings.peering.standalone = True
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.inactivity_timeout = 75  # a bookmark comes every minute
    settings.watching.reconnect_backoff = 1.0
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 120  # its lists are not paged
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = (1, 2, 3, 5, 8)
    settings.execution.max_workers = 2  # no handler of ours is synchronous except login


def connection(configuration: Configuration) -> kopf.ConnectionInfo:
    """kopf's form of a configuration."""
    header = configuration.authorization()
    scheme, _, token = header.partition(" ") if header is not None else (None, "", None)
    return kopf.ConnectionInfo(
        server=configuration.url,
        ca_path=configuration.ca_file,
        insecure=not configuration.verify,
        scheme=scheme,
        token=token,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        trust_env=True,  # the same proxy variables that our own client obeys
    )
