"""A span for each answer, by OTLP over HTTP in JSON, with the names of OpenTelemetry's GenAI.

The names are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/; what they lack begins with
`finetune.`. Only the duration of an answer is known, so its span ends when it is sent.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from finetune_trainer.contracts import Job
from finetune_trainer.evaluation.traces import AnsweredRow, Trace, trace
from finetune_trainer.exporting.connection import Connection

_SPANS = 100  # in one request
_CHARACTERS = 10_000  # of a text: collectors refuse requests of more than a few MB
_CLIENT = 3  # the kind of a span

Span = dict[str, Any]


def send_spans(connection: Connection, job: Job, answers: Iterable[AnsweredRow]) -> None:
    """Send the spans, a hundred at a time; sent again they have the same ids."""
    now = time.time_ns()
    for part in _parts(span(job.uid, trace(answered), now) for answered in answers):
        scope = {"scope": {"name": "finetune_trainer"}, "spans": part}
        resource = {"attributes": attributes(_about(job))}
        document = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
        connection.post("/v1/traces", document)


def span(run: str, told: Trace, now: int) -> Span:
    """One answer; its trace is that of its question in this run, so all answers to it stand side by side."""
    row = sha256(f"{run}\0{told['questions']}\0{told['id']}".encode()).hexdigest()
    return {
        "traceId": row[:32],
        "spanId": sha256(f"{row}{told['arm']}".encode()).hexdigest()[:16],
        "name": f"chat {told['model']}",
        "kind": _CLIENT,
        "startTimeUnixNano": str(now - round((told["seconds"] or 0) * 1e9)),
        "endTimeUnixNano": str(now),
        "attributes": attributes(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": told["model"],
                "gen_ai.usage.output_tokens": told["tokens"],
                "gen_ai.response.finish_reasons": [told["finish"]] if told["finish"] else None,
                "gen_ai.input.messages": json.dumps(told["prompt"], ensure_ascii=False)[:_CHARACTERS],
                "gen_ai.output.messages": told["output"] and told["output"][:_CHARACTERS],
                "gen_ai.evaluation.score.value": told["score"],
                "gen_ai.evaluation.explanation": told["reason"],
                "finetune.reference": told["reference"][:_CHARACTERS],
                "finetune.questions": told["questions"],
                "finetune.arm": told["arm"],
                "finetune.row": told["id"],
                "finetune.group": told["group"],
                "error.type": told["problem"],
            }
        ),
    }


def attributes(named: Mapping[str, Any]) -> list[dict[str, Any]]:
    """OTLP's form of a mapping, without what is None."""
    return [{"key": name, "value": _value(value)} for name, value in named.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case list():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": str(value)}


def _about(job: Job) -> dict[str, str]:
    return {
        "service.name": "finetune-trainer",
        "k8s.namespace.name": job.namespace,
        "finetune.job": job.name,
        "finetune.uid": job.uid,
    }


def _parts(spans: Iterable[Span]) -> Iterator[list[Span]]:
    part: list[Span] = []
    for each in spans:
        part.append(each)
        if len(part) == _SPANS:
            yield part
            part = []
    if part:
        yield part
