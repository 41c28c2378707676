"""README.md of a publication: a model card as the Hugging Face Hub reads it.

Its metadata is that of https://huggingface.co/docs/hub/model-cards. What is not known is left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from urllib.parse import urlsplit, urlunsplit

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from yaml import YAMLError

from finetune_trainer import words
from finetune_trainer.contracts import AdapterManifest, Job
from finetune_trainer.evaluation.document import Evaluation
from finetune_trainer.report.document import Report
from finetune_trainer.report.readiness import readiness

_HUB_DATASET = "hf://datasets/"
_HUB = "hf://"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{1,49}")


def model_card(job: Job, manifest: AdapterManifest, report: Report | None) -> str:
    """The card as Markdown with its metadata in YAML; a publication without a report is not evaluated."""
    text = _template().render(
        job=job,
        manifest=manifest,
        evaluation=report.evaluation if report else None,
        headline=readiness(report).text if report and report.evaluation else None,
        base=_base_name(job),
        base_source=public_source(job.spec.base_model.source),
        data=public_source(job.spec.dataset.source),
        holdout=public_source(job.spec.evaluation.dataset.source) if job.spec.evaluation else None,
        settings=manifest.training["prepare"].get("training", {}),
    )
    metadata = card_data(job, manifest, report.evaluation if report else None)
    return f"---\n{metadata.to_yaml(line_break=chr(10))}\n---\n\n{text}"


def card_data(job: Job, manifest: AdapterManifest, evaluation: Evaluation | None) -> ModelCardData:
    """The metadata; base and data sets are named where they are on the Hub."""
    adapter = manifest.kind == "Adapter"
    tags = ["finetune-operator", *(["lora", "peft"] if adapter else []), manifest.method.lower()]
    return ModelCardData(
        base_model=_on_hub(job.spec.base_model.source, _HUB),
        library_name="peft" if adapter else "transformers",
        license=manifest.training["prepare"].get("baseLicense"),
        datasets=[name] if (name := _on_hub(job.spec.dataset.source, _HUB_DATASET)) else None,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(tags)),
        model_name=job.name,
        eval_results=list(_results(job, evaluation)) if evaluation else None,
    )


def public_source(source: str) -> str:
    """A source without what may be a secret in it: user, password, query."""
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        return source
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def license_of(readme: str) -> str | None:
    """The licence that the metadata of a model card names; None without one or when it cannot be read."""
    try:
        named = ModelCard(readme, ignore_metadata_errors=True).data.get("license")
    except (ValueError, TypeError, YAMLError):  # whatever somebody wrote there must not end a run
        return None
    known = isinstance(named, str) and _LICENSE.fullmatch(named) and named != "other"
    return named if known else None


def _results(job: Job, evaluation: Evaluation) -> Iterator[EvalResult]:
    """One result for each grader, of the tuned model, on the hold-out."""
    holdout = job.spec.evaluation.dataset.source if job.spec.evaluation else ""
    for grader in evaluation.graders:
        if grader.tuned is None:
            continue
        yield EvalResult(
            task_type="text-generation",
            dataset_type=_on_hub(holdout, _HUB_DATASET) or "hold-out",
            dataset_name=f"{job.name} hold-out",
            metric_type=grader.name,
            metric_name=f"{grader.name}, mean score",
            metric_value=round(grader.tuned, 4),
        )


def _on_hub(source: str, scheme: str) -> str | None:
    """`org/name` of a source on the Hub, without the path inside it."""
    if not source.startswith(scheme):
        return None
    return "/".join(source.removeprefix(scheme).split("/")[:2])


def _base_name(job: Job) -> str:
    return _on_hub(job.spec.base_model.source, _HUB) or "BASE_MODEL_FOLDER"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("finetune_trainer.report"),
        autoescape=False,  # noqa: S701 (Markdown; names from a job are written as code)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent, "points": words.points, "number": words.number, "setting": words.setting,
        "code": code,
    }  # fmt: skip
    return environment.get_template("card.md")


def code(text: str) -> str:
    """A name from a job as Markdown's code, also within a table."""
    plain = words.printable(text).replace("`", "'").replace("|", r"\|")
    return f"`{plain}`"
