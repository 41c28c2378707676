"""The container's processes: start, probe, shut down, fetch; each on real sockets."""

import argparse
import asyncio
import itertools
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_serving import serve as serving
from finetune_serving.agent import slowdown
from finetune_serving.engine import remove_stale_socket
from finetune_serving.fetch_base import MARKER
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.health import check
from finetune_serving.options import Options, add_options, options_of

REVISION = "a" * 40


def options(stand_in: Any, folder: Path) -> Options:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, agent_port = one.getsockname()[1], two.getsockname()[1]
    manifest = {"schemaVersion": 1, "generation": 1, "base": {"name": "base"}, "versions": [], "routes": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Options(
        manifest=folder / "manifest.json", uds=stand_in.path, model=model, max_lora_rank=16,
        adapters=folder / "adapters", sources=folder / "sources", host="127.0.0.1", port=port,
        agent_port=agent_port, drain_seconds=20.0,
    )  # fmt: skip


async def test_at_the_end_requests_in_flight_are_finished_and_readiness_drops_first(
    stand_in: Any, tmp_path: Path
) -> None:
    settings, stop = options(stand_in, tmp_path), asyncio.Event()
    stand_in.hold = asyncio.Event()
    running = asyncio.create_task(serving.serve(settings, "sha256:" + "b" * 64, stop))
    agent, api = f"http://127.0.0.1:{settings.agent_port}", f"http://127.0.0.1:{settings.port}"
    async with aiohttp.ClientSession() as client, asyncio.timeout(60):
        await _ready(client, agent)
        body = {"model": "base", "prompt": "x"}
        asked = asyncio.create_task(client.post(f"{api}/v1/completions", json=body))
        await stand_in.started.wait()
        stop.set()
        async with client.get(f"{agent}/readyz") as response:
            assert (response.status, await response.text()) == (503, "shutting down\n")
        stand_in.hold.set()
        assert (await asked).status == 200
        async with client.get(f"{agent}/metrics") as metrics:
            lines = (await metrics.text()).splitlines()
        assert 'finetune_gateway_requests_total{alias="base",code="200",version="base"} 1.0' in lines
        assert "finetune_server_adapter_slots 3.0" in lines
        assert 'finetune_server_adapters{phase="Ready"} 0.0' in lines
        await running


async def test_a_server_at_rest_publishes_what_an_adapter_costs(
    stand_in: Any, tmp_path: Path, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slowdown, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(slowdown, "TOLERANCE", 100.0)  # this machine does other work too
    settings, stop, entry = options(stand_in, tmp_path), asyncio.Event(), publish("a")
    manifest = json.loads(settings.manifest.read_text())
    route = {"alias": "reviews", "targets": [{"version": entry["name"], "weight": 100}]}
    settings.manifest.write_text(json.dumps(manifest | {"versions": [entry], "routes": [route]}))
    running = asyncio.create_task(serving.serve(settings, "sha256:" + "b" * 64, stop))
    agent = f"http://127.0.0.1:{settings.agent_port}"
    async with aiohttp.ClientSession() as client, asyncio.timeout(60):
        await _ready(client, agent)
        name = f'finetune_server_lora_slowdown_ratio{{version="{entry["name"]}"}}'
        while name not in await (await client.get(f"{agent}/metrics")).text():  # noqa: ASYNC110 - as it is scraped
            await asyncio.sleep(0.05)
        stop.set()
        await running


async def test_the_last_spans_reach_the_collector_that_the_environment_names(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        sent.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    collector = web.Application()
    collector.router.add_post("/v1/traces", collect)
    settings, stop = options(stand_in, tmp_path), asyncio.Event()
    async with TestServer(collector) as server, aiohttp.ClientSession() as client, asyncio.timeout(60):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", str(server.make_url("/")))
        running = asyncio.create_task(serving.serve(settings, "sha256:" + "b" * 64, stop))
        await _ready(client, f"http://127.0.0.1:{settings.agent_port}")
        body = {"model": "base", "prompt": "x"}
        async with client.post(f"http://127.0.0.1:{settings.port}/v1/completions", json=body) as response:
            assert response.status == 200
        stop.set()
        await running
    assert any(b"POST /v1/completions" in content for content in sent)


async def test_a_defect_of_the_agent_ends_the_process_after_its_requests(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = options(stand_in, tmp_path)
    stand_in.hold = asyncio.Event()
    running = asyncio.create_task(serving.serve(settings, "sha256:" + "b" * 64, asyncio.Event()))
    agent, api = f"http://127.0.0.1:{settings.agent_port}", f"http://127.0.0.1:{settings.port}"
    async with aiohttp.ClientSession() as client, asyncio.timeout(60):
        await _ready(client, agent)
        asked = asyncio.create_task(
            client.post(f"{api}/v1/completions", json={"model": "base", "prompt": "x"})
        )
        await stand_in.started.wait()
        monkeypatch.setattr(KeyRing, "refresh", _defect)
        while (await client.get(f"{agent}/readyz")).status == 200:  # noqa: ASYNC110 - as the kubelet asks
            await asyncio.sleep(0.02)
        stand_in.hold.set()
        assert (await asked).status == 200
        with pytest.raises(ExceptionGroup):
            await running


def _defect(_: KeyRing) -> None:
    raise AssertionError("a defect")


async def test_at_the_end_no_client_loses_a_request_on_a_connection_that_it_kept(
    stand_in: Any, tmp_path: Path
) -> None:
    """Eight clients ask one request after the other, half of them as streams, until an answer says close."""
    settings, stop = options(stand_in, tmp_path), asyncio.Event()
    running = asyncio.create_task(serving.serve(settings, "sha256:" + "b" * 64, stop))
    answers = 0

    async def ask(number: int) -> int:
        nonlocal answers
        body = {"model": "base", "prompt": "x", "stream": number % 2 == 0}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{settings.port}") as client:
            for count in itertools.count(1):
                async with client.post("/v1/completions", json=body) as response:
                    assert response.status == 200
                    await response.read()
                answers += 1
                if answers == 40:
                    stop.set()
                if response.headers.get("Connection") == "close":
                    return count
        return 0

    async with aiohttp.ClientSession() as client, asyncio.timeout(60):
        await _ready(client, f"http://127.0.0.1:{settings.agent_port}")
        counts = await asyncio.gather(*(ask(number) for number in range(8)))
        await running
    assert min(counts) > 1


async def test_a_client_that_never_ends_the_head_of_its_request_is_closed(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CLIENT_IDLE_SECONDS", 0.2)
    monkeypatch.setattr(serving, "LAME_DUCK_SECONDS", 0.0)
    settings, stop = options(stand_in, tmp_path), asyncio.Event()
    running = asyncio.create_task(serving.serve(settings, "sha256:" + "b" * 64, stop))
    async with aiohttp.ClientSession() as client, asyncio.timeout(60):
        await _ready(client, f"http://127.0.0.1:{settings.agent_port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost:")
        assert await reader.read() == b""
        writer.close()
        stop.set()
        await running


@pytest.mark.parametrize(
    ("manifest", "kwargs"),
    [
        pytest.param(
            {"kind": "Model", "chatTemplateKwargs": {"enable_thinking": False}},
            {"enable_thinking": False},
            id="a model that was tuned here",
        ),
        pytest.param({"kind": "Model"}, {}, id="one tuned before there were such values"),
        pytest.param({"name": "something else"}, {}, id="another project's manifest"),
        pytest.param(None, {}, id="no manifest"),
    ],
)
def test_a_base_brings_what_its_prompts_pass_to_the_chat_template(
    tmp_path: Path, manifest: dict[str, Any] | None, kwargs: dict[str, Any]
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert serving.base_template_kwargs(tmp_path) == kwargs


async def _ready(client: aiohttp.ClientSession, agent: str) -> None:
    while True:
        try:
            async with client.get(f"{agent}/readyz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.02)  # as the kubelet's probe asks again


async def test_the_probe_tells_a_running_engine_from_none(stand_in: Any, tmp_path: Path) -> None:
    assert await asyncio.to_thread(check, str(stand_in.path)) == 0
    await stand_in.stop()
    assert await asyncio.to_thread(check, str(stand_in.path)) == 1
    assert check(str(tmp_path / "nowhere.sock")) == 1


def test_the_probe_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, finetune_serving.__main__, finetune_serving.health; print(len(sys.modules))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True)
    assert int(loaded.stdout) < 200


def test_every_setting_of_the_gateway_is_a_flag_and_keeps_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert options_of(parser.parse_args(["--model", "/m"])) == Options(model=Path("/m"))
    given = options_of(
        parser.parse_args(["--model", "/m", "--keys", "/k", "--port", "1", "--drain-seconds", "2"])
    )
    assert given == Options(model=Path("/m"), keys=Path("/k"), port=1, drain_seconds=2.0)
    with pytest.raises(SystemExit):
        parser.parse_args([])


def test_a_stale_socket_is_removed_and_a_file_is_not(tmp_path: Path) -> None:
    stale, plain = tmp_path / "e.sock", tmp_path / "plain"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    plain.write_text("keep me")
    for path in (stale, plain, tmp_path / "nothing"):
        remove_stale_socket(path)
    assert not stale.exists()
    assert plain.exists()


FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}


@pytest.fixture
async def hub() -> Any:
    """A Hub with one model, on a real port; it records what was asked with which token."""
    asked: list[tuple[str, str | None]] = []

    async def info(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers.get("Authorization")))
        tree = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in FILES.items()]
        return web.json_response(tree)

    async def resolve(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        asked.append((name, request.headers.get("Authorization")))
        headers = {"X-Repo-Commit": REVISION, "ETag": f'"{name}"', "Accept-Ranges": "none"}
        return web.Response(body=FILES[name], headers=headers)

    app = web.Application()
    app.router.add_get(f"/api/models/org/model/tree/{REVISION}", info)
    app.router.add_get(f"/org/model/resolve/{REVISION}/{{name}}", resolve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def fetch(endpoint: str, target: Path, *more: str) -> tuple[int, str]:
    """Run the real command line; HF_ENDPOINT is read when its library is imported, so in a process."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
    }
    env["HF_HOME"] = str(target.parent / "home")
    command = [sys.executable, "-m", "finetune_serving", "fetch-base", "--source", "hf://org/model", *more]
    process = await asyncio.create_subprocess_exec(
        *command, "--to", str(target), env=env, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    return process.returncode or 0, errors.decode()


async def test_an_hf_base_is_fetched_once_with_its_token_and_without_pickles(
    hub: Any, tmp_path: Path
) -> None:
    endpoint, asked = hub
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "token").write_text("hf_secret\n")
    target = tmp_path / "base"
    more = ("--revision", REVISION, "--credentials", str(tmp_path / "secret"))
    code, errors = await fetch(endpoint, target, *more)
    assert code == 0, errors
    assert sorted(path.name for path in target.iterdir() if path.is_file()) == sorted(
        {MARKER, "config.json", "model.safetensors"}
    )
    assert {header for _, header in asked} == {"Bearer hf_secret"}
    assert "hf_secret" not in errors
    count = len(asked)
    assert (await fetch(endpoint, target, *more))[0] == 0
    assert len(asked) == count


async def test_of_pods_that_share_a_folder_one_fetches_and_the_others_wait(hub: Any, tmp_path: Path) -> None:
    endpoint, asked = hub
    target = tmp_path / "cache" / "base"
    both = await asyncio.gather(*(fetch(endpoint, target, "--revision", REVISION) for _ in range(2)))
    assert [code for code, _ in both] == [0, 0]
    assert [name for name, _ in asked].count(f"/api/models/org/model/tree/{REVISION}") == 1
    assert any("already there" in errors for _, errors in both)


async def test_a_folder_that_cannot_be_written_is_said_in_one_line(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    code, errors = await fetch(hub[0], tmp_path / "cache" / "base", "--revision", REVISION)
    assert code == 1
    assert f"cannot write to {tmp_path}/cache" in errors
    assert "Traceback" not in errors


async def test_a_revision_that_does_not_exist_is_said_in_one_line(hub: Any, tmp_path: Path) -> None:
    code, errors = await fetch(hub[0], tmp_path / "base", "--revision", "b" * 40)
    assert code == 1
    assert "cannot fetch hf://org/model" in errors
    assert "Traceback" not in errors


def test_a_base_that_cannot_be_read_for_comparison_is_served_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"odd")
    assert not serving.base_modules(tmp_path).shapes
    assert "model.safetensors" in caplog.text
