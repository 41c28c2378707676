"""Supervision, probes and the documents of pods."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

import aiohttp

from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.process.health import HealthServer
from finetune_operator.runtime.process.logs import JsonFormatter
from finetune_operator.runtime.process.tasks import LagMonitor, Supervisor
from finetune_operator.runtime.resources import Key


async def test_a_task_that_dies_ends_the_process() -> None:
    async def die() -> None:
        raise ValueError("boom")

    supervisor = Supervisor()
    supervisor.start("worker-0", die())
    await asyncio.wait_for(supervisor.ending.wait(), 1)
    assert supervisor.failure is not None
    assert "worker-0" in supervisor.failure
    assert "boom" in supervisor.failure


async def test_a_task_that_ends_while_stopping_is_no_failure() -> None:
    supervisor = Supervisor()
    supervisor.start("worker-0", asyncio.sleep(3600))
    await supervisor.stop()
    assert not supervisor.ending.is_set()
    assert supervisor.alive() == []


def test_a_blocked_loop_is_reported_by_the_probe() -> None:
    now = [0.0]
    monitor = LagMonitor(lambda: now[0], lambda _: None)
    assert monitor.wrong() == []
    now[0] = 60.0
    assert monitor.wrong() == ["event loop is 59.0 s late"]


async def test_probes_say_what_is_wrong_and_metrics_are_served() -> None:
    wrong: list[str] = []

    def check() -> Sequence[str]:
        return wrong

    metrics = Metrics()
    key = Key("FineTuneJob", "demo", "run")
    metrics.show(
        key, {"status": {"conditions": [{"type": "Succeeded", "status": "True", "reason": "Promote"}]}}
    )
    server = HealthServer(metrics, check, check)
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        assert (await session.get("/healthz")).status == 200
        wrong.append("jobs not listed yet")
        answer = await session.get("/readyz")
        text = await (await session.get("/metrics")).text()
        assert (answer.status, await answer.text()) == (503, "jobs not listed yet")
    await server.stop()
    assert "finetune_operator_objects" in text


def test_a_log_line_is_json_with_kind_namespace_and_name() -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "done %s", "args": (1,)})
    record.kind, record.namespace, record.object = "FineTuneJob", "demo", "run"
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["kind"], line["namespace"], line["name"]) == (
        "done 1",
        "FineTuneJob",
        "demo",
        "run",
    )
