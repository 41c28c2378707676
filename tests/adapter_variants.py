"""Adapters as users publish them, good and broken, and what the server must say of each.

Made with PEFT, or with PEFT and then changed by hand, on any tiny Llama; used by the tests of the checks
before the engine and by those that ask the real engine whether the checks are right.
"""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 16
_LAYERS = "base_model.model.model.layers."
_Q = _LAYERS + "0.self_attn.q_proj"

Tensors = dict[str, Any]
Make = Callable[["Workshop", Path], None]


@dataclass
class Workshop:
    """Makes adapters for the model in `base`; `others` are models that are not the base, by their sizes."""

    base: Path
    scratch: Path
    others: dict[str, Path] = field(default_factory=dict)

    def train(
        self,
        folder: Path,
        on: dict[str, Any] | None = None,
        zero: bool = False,
        several: bool = False,
        **options: Any,
    ) -> None:
        """Save a PEFT adapter of rank 8 on all linear layers, with random B matrices unless `zero`.

        `on` are the sizes of another model that it is trained on; `several` says that the base is not a
        language model alone.
        """
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        kind = AutoModelForImageTextToText if several else AutoModelForCausalLM
        model = kind.from_pretrained(self.other(**on) if on else self.base, dtype=torch.float32)
        torch.manual_seed(1)
        made = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **options}
        tuned = get_peft_model(model, made.pop("peft", LoraConfig)(**made))
        for name, parameter in tuned.named_parameters():
            if not zero and ("lora_B" in name or "lora_embedding_B" in name):
                torch.nn.init.normal_(parameter, std=0.5)
        tuned.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)

    def plain(self, folder: Path) -> None:
        """A copy of the good adapter that the others are variants of."""
        made = self.scratch / "plain"
        if not made.exists():
            self.train(made)
        shutil.copytree(made, folder)

    def place(self, variant: "Variant", folder: Path) -> None:
        """Put a variant into a folder; each is made once."""
        made = self.scratch / "made" / variant.sentence.replace("/", "-")
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            variant.make(self, made)
        shutil.copytree(made, folder)

    def other(self, **sizes: Any) -> Path:
        """A Llama of other sizes than the base."""
        from transformers import AutoConfig, AutoModelForCausalLM

        name = "-".join(f"{key}{value}" for key, value in sizes.items())
        if name not in self.others:
            config = AutoConfig.from_pretrained(self.base, **sizes)
            self.others[name] = self.scratch / name
            AutoModelForCausalLM.from_config(config).save_pretrained(self.others[name])
        return self.others[name]


@dataclass(frozen=True)
class Variant:
    """An adapter: how it is made, the reason it is refused for ("" when it is served), and words of the message."""

    sentence: str
    make: Make
    reason: str = ""
    says: str = ""


def trained(**options: Any) -> Make:
    return lambda workshop, folder: workshop.train(folder, **options)


def trained_on(**sizes: Any) -> Make:
    return trained(on=sizes)


def config(**changes: Any) -> Make:
    """The good adapter with other fields in its config; `...` removes one."""

    def make(workshop: Workshop, folder: Path) -> None:
        workshop.plain(folder)
        fields = json.loads((folder / CONFIG).read_text()) | changes
        kept = {name: value for name, value in fields.items() if value is not ...}
        (folder / CONFIG).write_text(json.dumps(kept))

    return make


def tensors(change: Callable[[Tensors], Tensors | None], of: Make = Workshop.plain) -> Make:
    """An adapter, the good one if no other is given, with its tensors changed in place or replaced."""

    def make(workshop: Workshop, folder: Path) -> None:
        of(workshop, folder)
        found = load_file(folder / WEIGHTS)
        changed = change(found)
        save_file(found if changed is None else changed, folder / WEIGHTS)

    return make


def content(name: str, data: bytes | Callable[[bytes], bytes]) -> Make:
    """The good adapter with the bytes of one file replaced."""

    def make(workshop: Workshop, folder: Path) -> None:
        workshop.plain(folder)
        path = folder / name
        old = path.read_bytes() if path.exists() else b""
        path.write_bytes(data(old) if callable(data) else data)

    return make


def header(change: Callable[[dict[str, Any]], object]) -> Make:
    """The good adapter with the header of its weights changed."""

    def rewrite(old: bytes) -> bytes:
        length = struct.unpack("<Q", old[:8])[0]
        fields = json.loads(old[8 : 8 + length])
        change(fields)
        text = json.dumps(fields).encode()
        return struct.pack("<Q", len(text)) + text + old[8 + length :]

    return content(WEIGHTS, rewrite)


def renamed(old: str, new: str, only: str = "") -> Make:
    """The good adapter with a part of its tensors' names replaced, in those that contain `only`."""
    return tensors(lambda t: {k.replace(old, new) if only in k else k: v for k, v in t.items()})


def each(function: Callable[[Any], Any], only: str = "") -> Make:
    """The good adapter with a function applied to the tensors whose names contain `only`."""
    return tensors(lambda t: {k: function(v) if only in k else v for k, v in t.items()})


def spoiled(name: str, value: float) -> Make:
    """The good adapter with one number of one tensor replaced."""

    def change(found: Tensors) -> None:
        found[name].flat[-1] = value

    return tensors(change)


def without(*parts: str, of: Make = Workshop.plain) -> Make:
    """An adapter without the tensors whose names contain one of the parts."""
    return tensors(lambda t: {k: v for k, v in t.items() if not any(part in k for part in parts)}, of)


def added(name: str, shape: tuple[int, ...]) -> Make:
    """The good adapter with one more tensor."""
    return tensors(lambda t: t | {name: np.ones(shape, np.float32)})


def as_bfloat16(spoil: float | None = None) -> Make:
    def make(workshop: Workshop, folder: Path) -> None:
        import torch
        from safetensors.torch import load_file as load
        from safetensors.torch import save_file as save

        workshop.plain(folder)
        found = {name: tensor.bfloat16() for name, tensor in load(folder / WEIGHTS).items()}
        if spoil is not None:
            found[_Q + ".lora_B.weight"][0, 0] = torch.tensor(spoil)
        save(found, folder / WEIGHTS)

    return make


def embedded(change: Callable[[Tensors], None] = lambda _: None, **options: Any) -> Make:
    """An adapter on the token embedding, which PEFT saves with a copy of the whole embedding."""

    return tensors(change, of=trained(target_modules=["embed_tokens", "q_proj"], **options))


def _halved(found: Tensors) -> None:
    found[_COPY] = found[_COPY] * 0.5


def _longer(found: Tensors) -> None:
    found[_COPY] = np.concatenate([found[_COPY], found[_COPY][:8]])


def _as_ia3(workshop: Workshop, folder: Path) -> None:
    from peft import IA3Config

    workshop.train(folder, peft=lambda **_: IA3Config(target_modules=["k_proj"], feedforward_modules=[]))


_COPY = "base_model.model.model.embed_tokens.base_layer.weight"
_DEEP = b"[" * 100_000
_OTHER_PREFIX = ("model.model.layers", "model.model.language_model.layers")

GOOD = (
    Variant("all linear layers", trained()),
    Variant("attention alone", trained(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    Variant("one module of one layer", trained(target_modules=["down_proj"], layers_to_transform=[1])),
    Variant("the largest rank that the server takes", trained(r=MAX_RANK)),
    Variant("rank-stabilised scaling", trained(use_rslora=True)),
    Variant("other ranks and alphas by module", trained(rank_pattern={"q_proj": 4}, alpha_pattern={"mlp.up_proj": 4})),
    Variant("ranks by a regular expression", trained(rank_pattern={r"layers\.1\..*_proj": 2})),
    Variant("gaussian initialisation", trained(init_lora_weights="gaussian")),
    Variant("the output head too", trained(target_modules=["q_proj", "lm_head"])),
    Variant("the token embedding too, with its copy", embedded()),
    Variant("bfloat16 weights", as_bfloat16()),
    Variant("float16 weights", each(lambda a: a.astype(np.float16))),
    Variant("some B matrices zero", each(lambda a: a * 0, only="0.self_attn.q_proj.lora_B")),
    Variant("names without PEFT's prefix", renamed("base_model.model.", "")),
    Variant("fields of a newer PEFT, and none that may be left out",
            config(from_the_future={"a": [1]}, use_dora=..., rank_pattern=..., bias=..., loftq_config=...)),
    Variant("null for whatever may be null", config(rank_pattern=None, alpha_pattern=None, modules_to_save=None)),
)  # fmt: skip

REFUSED = (
    # adapter_config.json
    Variant("another method of PEFT", _as_ia3, "UnsupportedAdapter", "IA3"),
    Variant("an adapter of MLX", config(peft_type=..., fine_tune_type="lora"), "UnsupportedAdapter", "has no peft_type"),
    Variant("DoRA", trained(use_dora=True), "UnsupportedAdapter", "DoRA"),
    Variant("PiSSA, which changes the base", trained(init_lora_weights="pissa"), "UnsupportedAdapter", "pissa"),
    Variant("trained biases", trained(bias="all"), "UnsupportedAdapter", "bias 'all'"),
    Variant("biases of B", trained(lora_bias=True), "UnsupportedAdapter", "LoRA bias"),
    Variant("a whole module saved", trained(modules_to_save=["lm_head"]), "UnsupportedAdapter", "modules_to_save"),
    Variant("trained tokens", trained(trainable_token_indices=[3]), "UnsupportedAdapter", "trainable_token_indices"),
    Variant("replicated layers", config(layer_replication=[[0, 1]]), "UnsupportedAdapter", "layer_replication"),
    Variant("a rank above the server's", trained(r=32), "RankTooLarge", "rank 32"),
    Variant("one module above the server's rank", trained(rank_pattern={"q_proj": 32}), "RankTooLarge", "rank 32"),
    Variant("ranks by module as a list", config(rank_pattern=[8]), "InvalidArtifact", "rank_pattern"),
    Variant("ranks by module as a word", config(rank_pattern="x"), "InvalidArtifact", "rank_pattern"),
    Variant("a rank by module that is none", config(rank_pattern={"q_proj": 0}), "InvalidArtifact", "rank_pattern.q_proj"),
    Variant("no rank", config(r=...), "InvalidArtifact", "at r:"),
    Variant("rank zero", config(r=0), "InvalidArtifact", "at r:"),
    Variant("a rank that is true", config(r=True), "InvalidArtifact", "at r:"),
    Variant("a rank in words", config(r="8"), "InvalidArtifact", "at r:"),
    Variant("no target modules", config(target_modules=...), "InvalidArtifact", "target_modules"),
    Variant("an alpha that is no number", config(lora_alpha=float("nan")), "InvalidArtifact", "lora_alpha"),
    Variant("an alpha of zero", config(lora_alpha=0), "SilentNoOp", "lora_alpha"),
    Variant("a pattern that is no regular expression", config(rank_pattern={"q_proj(": 4}), "InvalidArtifact", "q_proj("),
    Variant("a pattern that takes for ever", config(rank_pattern={"(.*)" * 9 + r"\1{2}[!?]": 4}), "InvalidArtifact", "too long"),
    Variant("a pattern nested 100,000 deep", config(alpha_pattern={"(" * 100_000: 4}), "InvalidArtifact", "alpha_pattern"),
    Variant("a rank of a thousand digits", config(r=10**1000), "InvalidArtifact", "at r:"),
    Variant("an alpha of four hundred digits", config(lora_alpha=10**400), "InvalidArtifact", "lora_alpha"),
    Variant("a config nested 100,000 deep", content(CONFIG, _DEEP), "InvalidArtifact", CONFIG),
    Variant("a field nested 100,000 deep", content(CONFIG, b'{"peft_type": "LORA", "r": ' + _DEEP), "InvalidArtifact", CONFIG),
    Variant("a config that is not UTF-8", content(CONFIG, b'{"peft_type": "\xff"}'), "InvalidArtifact", CONFIG),
    Variant("a config of 2 MiB", content(CONFIG, b" " * 2**21 + b"{}"), "InvalidArtifact", CONFIG),
    Variant("an empty config", content(CONFIG, b""), "InvalidArtifact", CONFIG),
    Variant("a config that is a list", content(CONFIG, b"[]"), "InvalidArtifact", CONFIG),
    # names and sizes
    Variant("all names under another prefix", renamed(*_OTHER_PREFIX), "BaseMismatch", "14 of 14"),
    Variant("half of the names under another prefix", renamed(*_OTHER_PREFIX, only="layers.1."), "BaseMismatch", "7 of 14"),
    Variant("names of another architecture", renamed("self_attn", "attention"), "BaseMismatch", "0.attention.k_proj"),
    Variant("a module that the base does not have", renamed("o_proj", "out_proj", only="layers.1."), "BaseMismatch", "1 of 14"),
    Variant("a base with more layers", trained_on(num_hidden_layers=4), "BaseMismatch", "layers.2."),
    Variant("a wider base", trained_on(hidden_size=128, head_dim=32), "BaseMismatch", "128"),
    Variant("a base with more key heads", trained_on(num_key_value_heads=4), "BaseMismatch", "k_proj"),
    Variant("a base with a wider feed-forward part", trained_on(intermediate_size=256), "BaseMismatch", "up_proj"),
    Variant("a base with more tokens", embedded(on={"vocab_size": 320}), "BaseMismatch", "embed_tokens"),
    Variant("a norm", renamed("self_attn.q_proj", "input_layernorm", only="layers.0."), "BaseMismatch", "input_layernorm"),
    Variant("a larger rank in the config", config(r=16), "InvalidArtifact", "8 instead of 16"),
    Variant("a smaller rank in the config", config(r=4), "InvalidArtifact", "8 instead of 4"),
    Variant("another rank by module in the config", config(rank_pattern={"q_proj": 4}), "InvalidArtifact", "q_proj: 8 instead of 4"),
    Variant("A and B of different ranks", each(lambda a: a[:4].copy(), only="q_proj.lora_A"), "InvalidArtifact", "4 and 8"),
    Variant("an enlarged embedding", embedded(_longer), "UnsupportedAdapter", "embed_tokens"),
    Variant("a changed embedding", embedded(_halved), "UnsupportedAdapter", "embed_tokens"),
    Variant("a whole output head", added("base_model.model.lm_head.weight", (4, 4)), "UnsupportedAdapter", "lm_head.weight"),
    Variant("magnitudes of DoRA without its option", added(_Q + ".lora_magnitude_vector", (64,)), "UnsupportedAdapter", "magnitude"),
    Variant("names that keep the adapter's own", renamed(".weight", ".default.weight"), "UnsupportedAdapter", "lora_A.default"),
    Variant("merged layers", added(_Q + ".base_layer.weight", (64, 64)), "UnsupportedAdapter", "base_layer"),
    Variant("a matrix B left out", without("0.self_attn.q_proj.lora_B"), "InvalidArtifact", "layers.0.self_attn.q_proj"),
    Variant("a matrix A left out", without("1.mlp.up_proj.lora_A"), "InvalidArtifact", "layers.1.mlp.up_proj"),
    Variant("one module under two names", tensors(lambda t: t | {_Q.removeprefix("base_model.model.") + ".lora_B.weight": t[_Q + ".lora_B.weight"] * 9}), "InvalidArtifact", "q_proj"),
    Variant("nothing but a copy of the embedding", tensors(lambda _: {_COPY: np.ones((4, 4), np.float32)}), "InvalidArtifact", "no tensors"),
    # numbers
    Variant("NaN in one matrix", spoiled(_Q + ".lora_B.weight", float("nan")), "InvalidArtifact", "1 of 14"),
    Variant("NaN in every matrix", each(lambda a: a * np.float32("nan")), "InvalidArtifact", "NaN"),
    Variant("infinity in one matrix", spoiled(_Q + ".lora_A.weight", float("-inf")), "InvalidArtifact", "q_proj"),
    Variant("NaN in bfloat16", as_bfloat16(float("nan")), "InvalidArtifact", "NaN"),
    Variant("numbers too large to compute with", each(lambda a: a * np.float32(1e20)), "InvalidArtifact", "too large"),
    Variant("every B zero, as before training", trained(zero=True), "SilentNoOp", "changes nothing"),
    Variant("every A zero", each(lambda a: a * 0, only="lora_A"), "SilentNoOp", "changes nothing"),
    Variant("every B minus zero", each(lambda a: a * np.float32(-0.0), only="lora_B"), "SilentNoOp", "changes nothing"),
    Variant("integers", each(lambda a: a.astype(np.int8)), "UnsupportedAdapter", "14 of 14"),
    Variant("matrices of three dimensions", each(lambda a: a[None].copy(), only="up_proj"), "UnsupportedAdapter", "up_proj"),
    Variant("empty matrices, as ZeRO-3 saves them", each(lambda a: a.reshape(-1)[:0].copy()), "InvalidArtifact", "ZeRO-3"),
    # the file
    Variant("no tensors", tensors(lambda _: {}), "InvalidArtifact", "no tensors"),
    Variant("an empty file", content(WEIGHTS, b""), "InvalidArtifact", "cut off"),
    Variant("a pickle under the name of safetensors", content(WEIGHTS, pickle.dumps({"a": 1})), "InvalidArtifact", WEIGHTS),
    Variant("a file cut off", content(WEIGHTS, lambda old: old[:-1]), "InvalidArtifact", "the file at"),
    Variant("a file with more at its end", content(WEIGHTS, lambda old: old + b"x"), "InvalidArtifact", "the file at"),
    Variant("a header longer than the file", content(WEIGHTS, lambda old: b"\xff" * 8 + old[8:]), "InvalidArtifact", "cut off"),
    Variant("a header nested 100,000 deep", content(WEIGHTS, struct.pack("<Q", len(_DEEP) + 5) + b'{"a":' + _DEEP), "InvalidArtifact", "header"),
    Variant("a header that is no JSON", content(WEIGHTS, struct.pack("<Q", 4) + b"\xff{}\0"), "InvalidArtifact", "header"),
    Variant("tensors that overlap", header(lambda h: h[_Q + ".lora_A.weight"].update(data_offsets=[0, 2048])), "InvalidArtifact", "begin"),
    Variant("a tensor of another size than its shape", header(lambda h: h[_Q + ".lora_A.weight"].update(shape=[8, 65])), "InvalidArtifact", "q_proj"),
    Variant("a shape below zero", header(lambda h: h[_Q + ".lora_A.weight"].update(shape=[-8, -64])), "InvalidArtifact", "shape"),
    Variant("a type that nobody knows", header(lambda h: h[_Q + ".lora_A.weight"].update(dtype="F31")), "UnsupportedAdapter", "1 of 14"),
)  # fmt: skip
