"""Where things are on the volumes of a stage pod (docs/contracts.md, "Paths inside stage pods")."""

import os
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.contracts import Job
from finetune_trainer.sources.volumes import resolve_volume_path


@dataclass(frozen=True)
class Workspace:
    """Typed paths below the workspace volume; nothing is created until it is written."""

    root: Path

    def base_dir(self, job: Job) -> Path:
        """The base model's folder: fetched into the workspace for hf, in place (or UserError) for pvc."""
        source = job.spec.base_model.source
        return self.fetched_base if source.startswith("hf://") else resolve_volume_path(source)

    @property
    def fetched_base(self) -> Path:
        """The folder that an hf base is fetched into."""
        return self.root / "base"

    @property
    def dataset_dir(self) -> Path:
        """Everything that prepare writes about the data."""
        return self.root / "dataset"

    @property
    def dataset_train(self) -> Path:
        """The tokenised rows, one per row or answer (trained_rows.py)."""
        return self.dataset_dir / "train.arrow"

    @property
    def holdout(self) -> Path:
        """JSON lines of {"id", "messages" (the prompt), "reference" (the expected answer)}.

        Where they say something also `tools`, `promptIds` (tokens of the prompt) and `opened` (reasoning).
        """
        return self.dataset_dir / "holdout.jsonl"

    @property
    def rivals_dir(self) -> Path:
        """The hold-out under the prompt of each rival, NAME.jsonl, in the form of `holdout`."""
        return self.dataset_dir / "rivals"

    @property
    def suites_dir(self) -> Path:
        """The suites outside of the task, NAME.jsonl, in the form of `holdout`."""
        return self.dataset_dir / "suites"

    @property
    def related(self) -> Path:
        """The training rows that resemble each hold-out row (data/corpus/related.py)."""
        return self.dataset_dir / "related.jsonl"

    @property
    def prepared(self) -> Path:
        """prepare's record for the later stages (data/prepared.py)."""
        return self.dataset_dir / "prepared.json"

    @property
    def report_json(self) -> Path:
        """What is known about the data, later about the evaluation, for programs."""
        return self.dataset_dir / "report.json"

    @property
    def report_html(self) -> Path:
        """The same for people."""
        return self.dataset_dir / "report.html"

    @property
    def curves(self) -> Path:
        """Loss and learning rate of each step of the training (evaluation/curves.py)."""
        return self.results_dir / "curves.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the train stage."""
        return self.root / "checkpoints"

    @property
    def adapter_dir(self) -> Path:
        """The trained adapter (methods LoRA and QLoRA)."""
        return self.root / "output" / "adapter"

    @property
    def model_dir(self) -> Path:
        """The trained model (method Full)."""
        return self.root / "output" / "model"

    def output_dir(self, job: Job) -> Path:
        """What publish copies: the adapter or the model."""
        return self.adapter_dir if job.spec.trains_adapter else self.model_dir

    def programs(self, model: str) -> Path:
        """The programs that `base` or `tuned` wrote, for the sandbox (CodeAssert)."""
        return self.results_dir / "code" / f"{model}.jsonl"

    def questions_for_containers(self, model: str) -> Path:
        """A folder for each container that grades: what it is asked about `base` or `tuned`."""
        return self.results_dir / "graders" / model

    @property
    def ran(self) -> Path:
        """What came of the programs of both models so far."""
        return self.results_dir / "code" / "ran.jsonl"

    @property
    def of_one_run(self) -> tuple[Path, ...]:
        """The folders that belong to one run; only the base may serve the next."""
        return self.dataset_dir, self.checkpoints, self.root / "output", self.results_dir

    @property
    def results_dir(self) -> Path:
        """Stored results, one file per stage and input digest."""
        return self.root / "results"


def destination_dir(job: Job) -> Path:
    """The folder that the job publishes to."""
    return on_destination(job.spec.output.destination)


def on_destination(source: str) -> Path:
    """A folder of the claim that the job publishes to; `FT_DESTINATION_ROOT` replaces /destination."""
    root = Path(os.environ.get("FT_DESTINATION_ROOT", "/destination"))
    return resolve_volume_path(source, root, must_exist=False)
