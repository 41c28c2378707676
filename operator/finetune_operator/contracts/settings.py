"""What only an administrator decides, read from the settings.json that the chart writes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

Text = Annotated[str, StringConstraints(min_length=1)]
Price = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}([.][0-9]{1,9})?$")]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]


class SettingsError(ValueError):
    """settings.json cannot be used; the message names every wrong field."""


class _Part(BaseModel):
    """Unknown keys are refused: a misspelt setting would silently keep its default."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Images(_Part):
    """The images that stage pods and serving pods run."""

    trainer: Text
    serving: Text


class GpuType(_Part):
    """What a `gpuType` of a spec means on this cluster: where it is, what it can do, what an hour costs.

    `peak_tflops` is for dense bf16 arithmetic; prices are decimal strings for one GPU.
    """

    resource_name: Text = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    memory_gib: float | None = Field(None, alias="memoryGiB", gt=0)
    peak_tflops: float | None = Field(None, gt=0)
    price_per_hour: Price | None = None
    spot_price_per_hour: Price | None = None
    currency: Currency | None = None

    @model_validator(mode="after")
    def _prices_have_a_currency(self) -> Self:
        if self.currency is None and (self.price_per_hour or self.spot_price_per_hour):
            raise ValueError("a price needs a currency; set currency, for example USD")
        return self


class S3(_Part):
    """The S3 service of s3:// datasets; what is left out is that of AWS."""

    endpoint: Annotated[str, StringConstraints(pattern="^https?://")] | None = None
    region: Text | None = None


class Settings(_Part):
    """All settings; durations in seconds. `env` and `engine_args` reach every pod and every engine.

    `stuck_deadline_seconds` is how long a pod may hold its node without running (volumes, containers, node,
    rest of its gang), `hang_deadline_seconds` how long at least a running stage may stand still;
    then its GPUs are let go and another attempt follows. `ttl_seconds_after_finished` is for runs whose spec
    says nothing.
    """

    images: Images
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    gpu_types: dict[str, GpuType] = Field(default_factory=dict)
    hub_endpoint: str | None = None
    s3: S3 = S3()
    env: dict[str, str] = Field(default_factory=dict)
    engine_args: tuple[str, ...] = ()
    image_pull_deadline_seconds: int = Field(600, ge=1)
    unschedulable_deadline_seconds: int = Field(86400, ge=1)
    stuck_deadline_seconds: int = Field(1800, ge=60)
    hang_deadline_seconds: int = Field(1800, ge=60)
    ttl_seconds_after_finished: int | None = Field(None, ge=0)
    progress_seconds: float = Field(10, ge=1)

    def gpu_type(self, name: str | None) -> GpuType | None:
        """What a gpuType means: NVIDIA's resource when a spec names none, None when nobody configured it."""
        return GpuType() if name is None else self.gpu_types.get(name)

    def gpu_type_problem(self, name: str | None) -> str | None:
        """Why a spec's gpuType cannot be had, in a sentence."""
        if self.gpu_type(name) is not None:
            return None
        known = ", ".join(sorted(self.gpu_types)) or "none"
        return (
            f"spec.resources.gpuType is {name}, which the administrator has not configured; known: {known}."
        )


def parse_settings(text: str | bytes) -> Settings:
    """Read the JSON text of settings.json; SettingsError names each wrong field."""
    try:
        return Settings.model_validate_json(text)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError(f"The operator's settings are not valid: {'; '.join(found)}.") from error
