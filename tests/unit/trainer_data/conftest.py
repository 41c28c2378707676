"""A tiny real base model, a real chat template, volumes in a temporary folder and job files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.chat.tokenizer import ChatTokenizer, load_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DIGEST = "sha256:" + "a" * 64
INPUT = "sha256:" + "b" * 64


def make_base(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A Llama of a few thousand parameters with a byte-level tokenizer trained on one line."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    core.train_from_iterator(["the user asks and the assistant answers the user"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", name="make_base")
def make_base_fixture() -> Callable[..., Path]:
    """A function that makes a tiny base in a folder, with another chat template if one is given."""
    return make_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base; shared, so tests must not write to it."""
    return make_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> ChatTokenizer:
    """Its tokenizer."""
    return load_tokenizer(tiny_base)


class Volumes:
    """What the operator would mount, in a temporary folder; every path is the real layout below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = root / "workspace"
        self.claims = root / "sources" / "pvc"
        self.configmaps = root / "sources" / "configmap"
        self.destination = root / "destination"
        self.termination = root / "termination-log"
        for folder in (self.workspace, self.claims, self.configmaps, self.destination / "adapters"):
            folder.mkdir(parents=True)

    def configmap(self, name: str, key: str, rows: list[dict[str, Any]]) -> str:
        """A mounted ConfigMap, with the symbolic links that the kubelet makes; returns its source."""
        data = self.configmaps / name / "..2024_01_01"
        data.mkdir(parents=True, exist_ok=True)
        (data / key).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for link, target in ((data.parent / "..data", data.name), (data.parent / key, f"..data/{key}")):
            if not link.is_symlink():
                link.symlink_to(target)
        return f"configmap://{name}/{key}"

    def claim(self, name: str, folder: Path) -> str:
        """A mounted claim whose folder `model` has a copy of a folder's files; returns its source."""
        target = self.claims / name / "model"
        target.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if not (target / path.name).exists():
                shutil.copy(path, target / path.name)
        return f"pvc://{name}/model"


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volumes:
    """Empty volumes; the environment names them."""
    volumes = Volumes(tmp_path)
    monkeypatch.setenv("FT_SOURCES_ROOT", str(tmp_path / "sources"))
    monkeypatch.setenv("FT_DESTINATION_ROOT", str(volumes.destination))
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path / "credentials"))
    monkeypatch.setenv("FT_PROGRESS_PORT", "0")
    monkeypatch.setenv("FT_TERMINATION_LOG", str(volumes.termination))
    return volumes


def train_rows(count: int = 12) -> list[dict[str, Any]]:
    """Prompt-completion rows with distinct prompts."""
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]


def holdout_rows(count: int = 100) -> list[dict[str, Any]]:
    """Hold-out rows that share no prompt with train_rows."""
    return [{"id": f"h{i}", "prompt": f"held out {i}", "completion": f"answer {i}"} for i in range(count)]


@pytest.fixture
def rows_for_training() -> list[dict[str, Any]]:
    """Twelve good rows."""
    return train_rows()


@pytest.fixture
def rows_held_out() -> list[dict[str, Any]]:
    """A hundred good rows."""
    return holdout_rows()


JobMaker = Callable[..., dict[str, Any]]


@pytest.fixture
def job_document(volumes: Volumes, tiny_base: Path) -> JobMaker:
    """A function that makes job.json of a good job as a dict; keyword arguments replace parts of the spec."""

    def make(stage: str = "prepare", **spec: Any) -> dict[str, Any]:
        document: dict[str, Any] = {
            "schemaVersion": 1, "namespace": "demo", "name": "job", "uid": "uid-1", "stage": stage, "attempt": 1,
            "specDigest": DIGEST, "inputDigest": INPUT,
            "spec": {
                "baseModel": {"source": volumes.claim("models", tiny_base), "revision": None, "fingerprint": None},
                "method": "LoRA", "lora": None,
                "dataset": {"source": volumes.configmap("data", "train.jsonl", train_rows()), "revision": None},
                "training": None,
                "evaluation": {
                    "dataset": {"source": volumes.configmap("data", "holdout.jsonl", holdout_rows())},
                    "graders": [{"name": "exact", "type": "ExactMatch", "fields": None, "schema": None}],
                    "primary": "exact", "gate": {"minDelta": "0.05"}, "maxTokens": 16,
                },
                "output": {"destination": "pvc://adapters/result"},
                "resources": {"nodes": 1, "gpusPerNode": 0, "processesPerNode": 1},
            },
        }  # fmt: skip
        document["spec"].update(spec)
        document["spec"]["dataset"].setdefault("rules", {"too_few": "Ignore"})  # a dozen rows are enough here
        if stage == "publish":
            document["publish"] = {"promoted": True, "verdict": "Promote", "accepted": []}
        return document

    return make


@pytest.fixture
def run_cli(volumes: Volumes, tmp_path: Path) -> Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]:
    """A function that runs the command line on a job and returns the exit code and the termination message."""
    from finetune_trainer.__main__ import main

    def run(document: dict[str, Any], command: str | None = None) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        arguments = [command or document["stage"], "--job", str(path), "--workspace", str(volumes.workspace)]
        code = main(arguments)
        return code, json.loads(volumes.termination.read_text(encoding="utf-8"))

    return run
