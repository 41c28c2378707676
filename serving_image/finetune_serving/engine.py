"""vLLM's OpenAI server on a unix socket, with private routes that vLLM 0.32 lacks.

vLLM's own `/v1/unload_lora_adapter` only forgets the name: the weights stay in its cache, and a request
that still carries the old path kills the engine once the files are gone (vllm#54839). Our
`/internal/remove_lora` therefore forgets the name, waits until the engine holds no request of that
adapter, removes the weights, and answers only when they are gone. The socket is reachable by the
containers of the pod alone; the gateway forwards none of these routes.
"""

import argparse
import asyncio
import json
import os
import signal
import stat
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_serving.health import starting_file

if TYPE_CHECKING:
    from fastapi import FastAPI

_CPU_KERNELS = "finetune_serving.cpu_kernels.CorrectedKernels"
_SHUTDOWN_SECONDS = 20
_REMOVE_SECONDS = 5.0
_CALL_SECONDS = 60.0  # a call into a dead engine never returns by itself
_POLL_SECONDS = 0.02

Flags = Mapping[str, str | None]  # None: a flag without a value


# What the administrator may change. The domain allows none: names under .invalid never resolve (RFC 2606).
_DEFAULTS: Flags = {"--allowed-media-domains": "nothing.invalid"}

# All processes of an engine run in one pod and talk over loopback: their ports, which ask for no key, are
# nobody else's. The gateway keeps connections for less long than the engine does.
ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",  # as the gateway's spans go
}


def own_flags(args: argparse.Namespace) -> Flags:
    """What only the server decides. vLLM takes the last of two, so these come after the administrator's."""
    return {
        "--model": args.model,
        "--served-model-name": args.served_name,
        "--uds": args.uds,
        **_lora_flags(args),
        "--tensor-parallel-size": str(args.tensor_parallel_size),
        **({"--max-model-len": str(args.max_model_len)} if args.max_model_len else {}),
        "--shutdown-timeout": str(_SHUTDOWN_SECONDS),
        "--disable-fastapi-docs": None,
        "--disable-uvicorn-access-log": None,
    }


def _lora_flags(args: argparse.Namespace) -> Flags:
    """A server without slots also serves bases whose architecture vLLM has no LoRA for."""
    if args.max_loras == 0:
        return {"--no-enable-lora": None}
    return {
        "--enable-lora": None,
        "--max-loras": str(args.max_loras),
        "--max-cpu-loras": str(args.max_cpu_loras),
        "--max-lora-rank": str(args.max_lora_rank),
    }


def engine_arguments(args: argparse.Namespace, extra: str) -> list[str]:
    """vLLM's command line for ours; `extra` is the administrator's JSON list (FT_ENGINE_ARGS)."""
    return [*_command_line({**_DEFAULTS, **_tracing()}), *_extra(extra), *_command_line(own_flags(args))]


def traces_endpoint() -> str | None:
    """Where the spans of engine and gateway go, by OpenTelemetry's standard variables; None for nowhere."""
    everything = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
    traces = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    return traces or (f"{everything}/v1/traces" if everything else None)


def _tracing() -> Flags:
    endpoint = traces_endpoint()
    return {} if endpoint is None else {"--otlp-traces-endpoint": endpoint}


def _command_line(flags: Flags) -> list[str]:
    return [part for flag, value in flags.items() for part in (flag, value) if part is not None]


def _extra(text: str) -> list[str]:
    try:
        extra = json.loads(text or "[]")
    except ValueError as error:
        raise SystemExit(
            f'FT_ENGINE_ARGS must be a JSON list such as ["--enforce-eager"]: {error}'
        ) from error
    if not isinstance(extra, list) or not all(isinstance(item, str) for item in extra):
        raise SystemExit('FT_ENGINE_ARGS must be a JSON list of strings such as ["--enforce-eager"].')
    return extra


def remove_stale_socket(path: Path) -> None:
    """Remove the socket file of an earlier process: an emptyDir survives container restarts."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()


def run_engine(args: argparse.Namespace) -> int:
    """Serve until SIGTERM; exit code 1 when the engine died, so that the pod's status has its last words.

    vLLM's settings come from its environment variables.
    """
    os.environ.update(ENVIRONMENT)
    starting_file(args.uds).touch()
    remove_stale_socket(Path(args.uds))
    extra = os.environ.get("FT_ENGINE_ARGS", "")
    import uvloop
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    signal.signal(signal.SIGTERM, _interrupt)  # until vLLM's server installs its own handler
    cli_env_setup()
    from vllm.platforms import current_platform

    fix = ["--worker-extension-cls", _CPU_KERNELS] if current_platform.is_cpu() else []
    arguments = [*engine_arguments(args, extra), *fix]
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    return uvloop.run(_serve(parsed))


def _interrupt(*_: object) -> None:
    """Stop a starting engine by an exception, so that its child processes end with it."""
    raise KeyboardInterrupt("terminated")


async def _serve(args: Any) -> int:
    """vLLM's run_server, with our routes added between building the app and serving it; the exit code."""
    import vllm.envs as envs
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.launcher import serve_http, setup_server
    from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config

    # Bound before the engine is built, as vLLM does: whoever connects before it listens is refused at once.
    address, sock = setup_server(args, reuse_port=False)
    async with build_async_engine_client(args) as client:
        stopping = shutdown_event(client)
        if args.enable_lora:
            refuse_prompt_logprobs(client)
        tasks = await client.get_supported_tasks()
        app = build_app(args, tasks, client.model_config)
        await init_app_state(client, app.state, args, tasks)
        add_private_routes(app, engine_id=uuid.uuid4().hex)
        starting_file(args.uds).unlink(missing_ok=True)
        print(json.dumps({"level": "info", "message": "engine ready", "address": address}), flush=True)  # noqa: T201
        log_config = get_uvicorn_log_config(args)
        shutdown = await serve_http(
            app,
            sock=sock,
            host=args.host,
            port=args.port,
            log_level=args.uvicorn_log_level,
            access_log=not args.disable_uvicorn_access_log,
            timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
            # Else one open connection keeps the process of a dead engine alive, and nothing restarts it.
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            **({} if log_config is None else {"log_config": log_config}),
        )
        died = not stopping.is_set()
    try:
        await shutdown
    finally:
        sock.close()
    return int(died)


def shutdown_event(client: Any) -> threading.Event:
    """Set once vLLM stops the engine on a signal; a server that ends without that has lost its engine."""
    stopping, shutdown = threading.Event(), client.shutdown

    def noticed(*args: Any, **named: Any) -> Any:
        stopping.set()
        return shutdown(*args, **named)

    client.shutdown = noticed
    return stopping


def refuse_prompt_logprobs(client: Any) -> None:
    """Answer 400 to requests for log-probabilities of the prompt, however they are asked for.

    Beside requests of an adapter they end vLLM 0.32 for everybody (vllm#16668). Here their meaning is known:
    several fields of several APIs end up in this one parameter. The refusal comes when the generation is
    asked for, not when its first token is awaited, so that streams get an answer 400 too.
    """
    from vllm.exceptions import VLLMValidationError

    generate = client.generate

    def checked(prompt: Any, sampling_params: Any, *more: Any, **named: Any) -> Any:
        if sampling_params.prompt_logprobs is not None:
            text = (
                "Log-probabilities of the prompt are not available on a server with adapters; leave out "
                "`prompt_logprobs`, and `echo` in chats and beside `logprobs`."
            )
            raise VLLMValidationError(text, parameter="prompt_logprobs")
        return generate(prompt, sampling_params, *more, **named)

    client.generate = checked


def add_private_routes(app: "FastAPI", engine_id: str) -> None:
    """Add `GET /internal/engine`, `GET /internal/loras`, `POST /internal/remove_lora`, `POST /internal/exit`.

    `engine_id` is new in every process: whoever sees it change knows that all adapters are gone.
    """
    from fastapi import Request
    from fastapi.responses import JSONResponse

    known: dict[str, int] = {}  # ids of forgotten names, so that a second call can finish the removal

    @app.get("/internal/engine")
    async def engine() -> JSONResponse:
        slots = app.state.args.max_cpu_loras if app.state.args.enable_lora else 0
        return JSONResponse({"engineId": engine_id, "slots": slots})

    @app.post("/internal/exit")
    async def leave() -> None:
        message = "the engine hangs and ends, as the agent asks"
        print(json.dumps({"level": "error", "message": message}), flush=True)  # noqa: T201
        os._exit(1)  # an orderly end would wait for the worker that hangs

    @app.get("/internal/loras")
    async def loras() -> JSONResponse:
        registered = app.state.openai_serving_models.lora_requests.items()
        names = {name: {"path": r.lora_path, "id": r.lora_int_id} for name, r in registered}
        if not app.state.args.enable_lora:
            return JSONResponse({"engineId": engine_id, "loras": {}, "resident": []})
        async with asyncio.timeout(_CALL_SECONDS):
            resident = sorted(await app.state.engine_client.list_loras())
        return JSONResponse({"engineId": engine_id, "loras": names, "resident": resident})

    @app.post("/internal/remove_lora")
    async def remove(request: Request) -> JSONResponse:
        name = str((await request.json())["lora_name"])
        models = app.state.openai_serving_models
        async with models.lora_resolver_lock[name]:
            registered = models.lora_requests.pop(name, None)
            if registered is not None:
                known[name] = registered.lora_int_id
            if name not in known:
                named = {r.lora_int_id for r in models.lora_requests.values()} | set(known.values())
                await _remove_nameless(app.state.engine_client, named)
                return JSONResponse({"removed": False, "resident": False})
            async with asyncio.timeout(_REMOVE_SECONDS + _CALL_SECONDS):
                gone = await _remove(app.state.engine_client, name, known[name])
        if gone:
            models.lora_resolver_lock.pop(name, None)
            known.pop(name)
        return JSONResponse({"removed": gone, "resident": not gone}, status_code=200 if gone else 409)


async def _remove_nameless(client: Any, named: set[int]) -> None:
    """Drop what vLLM keeps of an adapter that it read and then refused: it takes a slot under no name."""
    async with asyncio.timeout(_CALL_SECONDS):
        for lora_id in set(await client.list_loras()) - named:
            await client.remove_lora(lora_id)


async def _remove(client: Any, name: str, lora_id: int) -> bool:
    """Wait for the adapter's last request, drop its weights; False when requests outlast the deadline.

    A request that the engine still holds would read the weights from disk again, so removal comes after
    the last one. An abort travels the same ordered channel as the removal that follows it.
    """
    deadline = asyncio.get_running_loop().time() + _REMOVE_SECONDS
    while any(state.lora_name == name for state in client.output_processor.request_states.values()):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)  # vLLM offers no event for the end of a request
    await client.remove_lora(lora_id)
    return lora_id not in await client.list_loras()
