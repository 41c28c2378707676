"""The routers that users would pick instead, each in front of the same engine on a port."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway.processes import free_port, running, wait_for_answer


@dataclass(frozen=True)
class Router:
    """A program of the environment that `--routers` names: how it is called, and where it says it is up."""

    name: str
    program: str
    package: str
    version: str
    ready: str


VLLM_ROUTER = Router("vllm-router", "vllm-router", "vllm-router", "0.1.17", "/health")
LITELLM = Router("LiteLLM", "litellm", "litellm[proxy]", "1.108.7", "/health/liveliness")
ROUTERS = (VLLM_ROUTER, LITELLM)


def install_command(folder: Path) -> str:
    """What makes the environment; they are not in ours, since LiteLLM pins what the engine needs newer."""
    packages = " ".join(f"'{router.package}=={router.version}'" for router in ROUTERS)
    return f"python3.11 -m venv {folder} && {folder}/bin/pip install {packages}"


@contextmanager
def started(router: Router, programs: Path, engine_port: int, folder: Path) -> Iterator[tuple[str, int]]:
    """The router's address and process id, once it answers."""
    port = free_port()
    engine = f"http://127.0.0.1:{engine_port}"
    arguments = _vllm_router(engine, port) if router is VLLM_ROUTER else _litellm(engine, port, folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with running(str(programs / router.program), *arguments, environment=environment) as process:
        wait_for_answer(f"http://127.0.0.1:{port}{router.ready}")
        yield f"127.0.0.1:{port}", process.pid


def _vllm_router(engine: str, port: int) -> list[str]:
    metrics = str(free_port())
    found = ["--worker-urls", engine, "--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port)]
    return [*found, "--prometheus-port", metrics, "--log-level", "error"]


def _litellm(engine: str, port: int, folder: Path) -> list[str]:
    parameters = {"model": "openai/base", "api_base": f"{engine}/v1", "api_key": "none"}
    config = folder / "litellm.json"  # JSON is YAML
    general = {"dangerously_permit_weak_or_unset_master_key": True}  # as the gateway here, which has no keys
    models = [{"model_name": "base", "litellm_params": parameters}]
    config.write_text(json.dumps({"model_list": models, "general_settings": general}))
    return ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
