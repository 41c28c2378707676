"""The images of this machine: which Dockerfile, which inputs, on which base."""

from dataclasses import dataclass
from pathlib import Path

from dev.images import content

ROOT = Path(__file__).resolve().parents[2]
STANDIN = "standin"
"""Name of the debootstrapped base that stands in for python:3.11-slim-bookworm."""


@dataclass(frozen=True)
class Recipe:
    """One image: `inputs` are relative to the build context `folder`, `base` names another recipe."""

    name: str
    folder: str
    inputs: tuple[str, ...]
    base: str = STANDIN
    target: str | None = None
    args: tuple[tuple[str, str], ...] = ()
    shipped: bool = True
    about: str = ""

    @property
    def context(self) -> Path:
        """The absolute build context."""
        return ROOT / self.folder

    def tag(self, base_ref: str) -> str:
        """The content digest: every input, the base it stands on and every build argument."""
        arguments = [f"{key}={value}" for key, value in self.args]
        settings = [base_ref, self._instructions(), *arguments]
        return content.digest(self.context, self.inputs, settings)

    def _instructions(self) -> str:
        """The Dockerfile; only up to the stage that is built, so that later stages cost it nothing."""
        text = (self.context / "Dockerfile").read_text()
        return text.split(f"\nFROM {self.target}\n")[0] if self.target else text


_CPU_LOCK = "requirements-cpu.lock"
RECIPES = (
    Recipe("pause", "dev/images/pause", ("pause.c",), about="holds a pod's namespaces"),
    Recipe(
        "operator-deps",
        "operator",
        ("requirements.lock",),
        target="deps",
        shipped=False,
        about="kopf and the Kubernetes client",
    ),
    Recipe(
        "operator",
        "operator",
        ("requirements.lock", "finetune_operator"),
        base="operator-deps",
        about="code of the operator",
    ),
    # The trainer's dependencies and, above them, the few packages that only serving needs: one stack of
    # layers, so that torch is stored, pushed and pulled once.
    Recipe(
        "trainer-deps",
        "trainer_image",
        ("requirements.lock",),
        target="deps",
        shipped=False,
        about="torch, transformers, TRL, DeepSpeed: about 7 GB",
    ),
    Recipe(
        "serving-deps",
        "serving_image",
        (_CPU_LOCK,),
        base="trainer-deps",
        target="deps",
        args=(("LOCK", _CPU_LOCK),),
        shipped=False,
        about="vLLM for CPUs",
    ),
    Recipe(
        "trainer",
        "trainer_image",
        ("requirements.lock", "finetune_trainer"),
        base="trainer-deps",
        about="code of the trainer",
    ),
    Recipe(
        "serving",
        "serving_image",
        (_CPU_LOCK, "finetune_serving"),
        base="serving-deps",
        args=(("LOCK", _CPU_LOCK),),
        about="code of the server",
    ),
)
"""In build order: a base comes before what stands on it."""
