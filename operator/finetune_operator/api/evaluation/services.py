"""What an evaluation talks to: a shared ModelServer, a judge, and where results are sent."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_operator.api.parts import HOST, PATH, ObjectName, Price, SecretRef
from finetune_operator.api.schema import ApiModel, Cel


class ScoringServer(ApiModel):
    """The ModelServer that scores."""

    name: ObjectName = Field(description="Name of the ModelServer in this namespace.")


class ApiKeyRef(ApiModel):
    """An entry of the Secret that holds the server's API keys."""

    name: ObjectName = Field(
        description="Name of the Secret in this namespace: that of the ModelServer's spec.apiKeys."
    )
    key: Annotated[
        str, Cel("self.matches('^[-._a-zA-Z0-9]+$')", "must be letters, digits, '-', '_' and '.'")
    ] = Field(description="The entry whose value is the key.", min_length=1, max_length=253)


class ScoringEngine(ApiModel):
    """A ModelServer that scores base and tuned model in place of an engine of the run's own."""

    server_ref: ScoringServer = Field(
        description="The ModelServer, of the same base and with the claim of spec.output as its artifact "
        "store. The candidate takes one of its slots while it is scored; no alias leads to it."
    )
    api_key: ApiKeyRef | None = Field(
        None,
        description="The key that the run asks with, where the ModelServer has spec.apiKeys; it alone may "
        "call the candidate. An entry of its own keeps the run apart from users.",
    )


class Judge(ApiModel):
    """The model that judges answers, behind any OpenAI-compatible API. It is sent the hold-out's rows."""

    rules = (
        Cel(
            "has(self.pricePerMillionInputTokens) == has(self.pricePerMillionOutputTokens)",
            "pricePerMillionInputTokens and pricePerMillionOutputTokens belong together; give both, also "
            "where they are equal",
        ),
    )

    url: Annotated[
        str,
        Cel(
            f"self.matches('^https?://{HOST}{PATH}*/?$')",
            "must be the root of the API, as https://HOST/v1 (without ? and user names: a spec is no place "
            "for secrets)",
        ),
    ] = Field(
        description="Root of the API, as https://HOST/v1; chat/completions is asked below it.",
        min_length=1,
        max_length=512,
    )
    model: str = Field(description="Name of the model there.", min_length=1, max_length=253)
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` holds the API key. Only the scorer's container gets it."
    )
    price_per_million_input_tokens: Price | None = Field(
        None,
        description="Price of a million tokens that the judge reads, in the currency of the gpuType (without "
        "GPUs that of spec.budget), a decimal number as a string. With prices, what judging costs counts in "
        "status.cost.spent and against spec.budget.",
    )
    price_per_million_output_tokens: Price | None = Field(
        None, description="Price of a million tokens that the judge writes, likewise."
    )
    timeout_seconds: int = Field(60, description="How long one request may take.", ge=1, le=600)
    max_concurrency: int = Field(8, description="Requests that may be under way at once.", ge=1, le=64)


_URL = Cel(
    f"self.matches('^https?://{HOST}{PATH}*/?$')",
    "must be an http or https address without ? and user names: a spec is no place for secrets",
)


class MlflowExport(ApiModel):
    """An MLflow tracking server, which gets a run with settings, scores and curves."""

    tracking_uri: Annotated[str, _URL] = Field(
        description="Address of the tracking server, as https://HOST.", min_length=1, max_length=512
    )
    experiment: str = Field(
        description="Name of the experiment; it is made if there is none.", min_length=1, max_length=250
    )
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` is sent as a bearer token."
    )


class OpenTelemetryExport(ApiModel):
    """A collector, which gets a span for each answer of both models, with prompt, output and grade."""

    endpoint: Annotated[str, _URL] = Field(
        description="Address of the collector for OTLP over HTTP, as https://HOST:4318.",
        min_length=1,
        max_length=512,
    )
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` is sent as a bearer token."
    )


class Export(ApiModel):
    """Where publish sends the evaluation beside the published folder. A failure is told and ends nothing."""

    mlflow: MlflowExport | None = Field(None, description="An MLflow tracking server.")
    open_telemetry: OpenTelemetryExport | None = Field(None, description="An OpenTelemetry collector.")
