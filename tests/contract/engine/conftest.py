"""Real vLLM on the CPU, started once per session, with a tiny Llama and PEFT adapters made here."""

import hashlib
import json
import os
import shutil
import socket as socket_module
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from finetune_serving.fingerprint import base_fingerprint
from finetune_serving.health import check

START_SECONDS = 900  # about a minute on an idle machine, several when it is shared
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "patient",
    "took",
    "medicine",
    "and",
    "slept",
    "well",
    "sick",
    "pain",
    "answer",
]


# Everything that a message may hold is in its text, and without thinking one word more.
TEMPLATE = (
    "{% for t in tools or [] %}{{ t['function']['name'] }} {% if t['function']['description'] is defined %}{{ t | tojson }}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {{ m['reasoning_content'] or '' }} "
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['arguments'] | tojson }} {% endfor %}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}well {% endif %}"
)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a word tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base") / "tiny"
    words = dict.fromkeys(["<unk>", "<s>", "</s>", *WORDS, *"abcdefghijklmnopqrstuvwxyz."])
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_adapter(base_model: Path) -> Callable[..., str]:
    """Publish a PEFT adapter with its manifest into a folder; returns the digest of the manifest.

    `strength` scales its random B matrices (0 makes an adapter that changes nothing).
    """

    def make(folder: Path, seed: int, strength: float = 0.5, rank: int = 8, **manifest: Any) -> str:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear"))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=strength)
        scratch = Path(tempfile.mkdtemp())
        tuned.save_pretrained(scratch)
        folder.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(scratch / name, folder / name)
        shutil.rmtree(scratch)
        return _publish(folder, base_fingerprint(base_model), rank, manifest)

    return make


def _publish(folder: Path, fingerprint: str, rank: int, more: dict[str, Any]) -> str:
    files = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        files.append(
            {"path": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        )
    manifest = {
        "schemaVersion": 1,
        "kind": "Adapter",
        "method": "LoRA",
        "baseModel": {"source": "pvc://base/tiny", "revision": None, "fingerprint": fingerprint},
        "adapter": {"rank": rank, "alpha": 16},
        "files": files,
        "promoted": True,
        **more,
    }
    content = json.dumps(manifest, indent=2).encode()
    (folder / "manifest.json").write_bytes(content)
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def engine_socket(base_model: Path) -> Iterator[Path]:
    """The socket of a running `python -m finetune_serving engine` (about a minute to start)."""
    slots = ["--max-loras", "2", "--max-cpu-loras", "3", "--max-lora-rank", "16"]
    with running_engine(base_model, *slots) as socket:
        yield socket


@contextmanager
def running_engine(model: Path, *options: str) -> Iterator[Path]:
    """An engine that answers on the socket, in an environment that points it at the network."""
    folder = Path(tempfile.mkdtemp(prefix="ft-"))  # socket paths are limited to 107 bytes
    socket = folder / "engine.sock"
    command = [sys.executable, "-m", "finetune_serving", "engine", "--model", str(model)]
    command += ["--served-name", "tiny", "--uds", str(socket), "--max-model-len", "256", *options]
    env = os.environ | {
        "FT_ENGINE_ARGS": '["--enforce-eager", "--max-num-seqs", "16"]',
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONSAFEPATH": "1",  # as in the image
        **_network(),
    }
    log = (folder / "engine.log").open("wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(process, socket, folder / "engine.log")
        yield socket
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()
        shutil.rmtree(folder)


def _network() -> dict[str, str]:
    """What an engine finds by itself in a pod: an address that others reach. Here the host's name is loopback."""
    for interface, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family == socket_module.AF_INET and not address.address.startswith("127."):
                return {"VLLM_HOST_IP": address.address, "GLOO_SOCKET_IFNAME": interface}
    return {}


def _wait(process: "subprocess.Popen[bytes]", socket: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while check(str(socket)) != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the engine did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.5)  # what the kubelet's startup probe does, only faster


@dataclass(frozen=True)
class Server:
    """A running gateway container: its folder holds sources/ and manifest.json, its API needs the key."""

    folder: Path
    url: str
    agent_url: str
    key: str

    def write(
        self, generation: int, versions: list[dict[str, Any]], candidates: tuple[str, ...] = (), **routes: str
    ) -> None:
        """Swap in a server manifest whose aliases point at the named versions; `candidates` are the team's."""
        document = {
            "schemaVersion": 1,
            "generation": generation,
            "base": {"name": "tiny", "fingerprint": None},
            "versions": versions,
            "candidates": [{"version": name, "key": "team"} for name in candidates],
            "routes": [{"alias": a, "targets": [{"version": v, "weight": 100}]} for a, v in routes.items()],
        }
        (self.folder / "fresh.json").write_text(json.dumps(document))
        (self.folder / "fresh.json").replace(self.folder / "manifest.json")

    def state(self) -> dict[str, Any]:
        """What the agent says on /state."""
        response = httpx.get(f"{self.agent_url}/state", timeout=10)
        return dict(response.json())

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first state that meets the condition, asked for as the operator asks."""
        deadline = time.monotonic() + 120
        while not condition(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        return state


@pytest.fixture(scope="session")
def server(engine_socket: Path, base_model: Path, make_adapter: Callable[..., str]) -> Iterator[Server]:
    """`python -m finetune_serving gateway` in front of the engine, with three published adapters."""
    folder = Path(tempfile.mkdtemp(prefix="ft-"))
    (folder / "keys").mkdir()
    (folder / "keys" / "team").write_text("team-key\n")
    port, agent_port = _free_ports()
    command = [
        sys.executable,
        "-m",
        "finetune_serving",
        "gateway",
        "--manifest",
        str(folder / "manifest.json"),
    ]
    command += ["--uds", str(engine_socket), "--model", str(base_model), "--keys", str(folder / "keys")]
    command += ["--adapters", str(folder / "adapters"), "--sources", str(folder / "sources")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--agent-port", str(agent_port)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*command, "--max-lora-rank", "16"], env=env)
    server = Server(folder, f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{agent_port}", "team-key")
    try:
        _wait_for_port(process, agent_port)
        yield server
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def adapters(server: Server, make_adapter: Callable[..., str]) -> dict[str, dict[str, Any]]:
    """Entries for the server manifest: two adapters that differ, one that changes nothing, one without thinking."""
    entries = {}
    quiet = {"chatTemplateKwargs": {"enable_thinking": False}}
    for name, seed, strength, more in (
        ("one", 1, 0.5, {}),
        ("two", 2, 0.5, {}),
        ("none", 3, 0.0, {}),
        ("quiet", 4, 0.5, quiet),
    ):
        folder = server.folder / "sources" / "pvc" / "adapters" / name
        digest = make_adapter(folder, seed, strength, **more)
        version = f"reviews--{digest[7:19]}"
        source = f"pvc://adapters/{name}"
        entries[name] = {"name": version, "source": source, "digest": digest, "allowUnpromoted": False}
    return entries


def _free_ports() -> tuple[int, int]:
    with socket_module.socket() as first, socket_module.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the gateway did not start; its log is above")
