"""vLLM's own parser: the profiles of docs/operations.md are understood, and no spelling of our flags slips through."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from finetune_operator.contracts.engine import OWN_ARGUMENT, OWN_FLAGS, Arguments
from finetune_operator.contracts.settings import parse_settings
from finetune_serving.__main__ import _parser as serving_parser
from finetune_serving.engine import ENVIRONMENT, engine_arguments, own_flags

pytestmark = pytest.mark.slow  # importing vLLM takes half a minute
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
PROFILES = yaml.safe_load(PAGE[PAGE.index("engineProfiles:\n") :].partition("```")[0])["engineProfiles"]
ENGINE = ["engine", "--model", "/m", "--served-name", "n", "--uds", "/run/engine/engine.sock"]


def options(*more: str) -> argparse.Namespace:
    return serving_parser().parse_args([*ENGINE, *more])


@pytest.fixture(scope="module")
def vllm() -> Any:
    """The parser of `vllm serve`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_of_the_page_is_understood(vllm: Any, name: str) -> None:
    from vllm import envs
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    images = {"trainer": "t", "serving": "s"}
    given = parse_settings(json.dumps({"images": images, "engineProfiles": {name: PROFILES[name]}}))
    profile = given.engine_profiles[name]
    parsed = vllm.parse_args(engine_arguments(options(), json.dumps(profile.args)))
    validate_parsed_serve_args(parsed)
    assert parsed.tool_call_parser in (None, *ToolParserManager.list_registered())
    assert parsed.reasoning_parser in (None, "", *ReasoningParserManager.list_registered())
    assert set(profile.env) <= set(envs.environment_variables)


@pytest.mark.parametrize("slots", ["0", "4"])
def test_the_table_of_own_flags_is_vllms(vllm: Any, slots: str) -> None:
    parsed = vllm.parse_args(engine_arguments(options("--max-loras", slots), "[]"))
    assert (parsed.uds, parsed.served_model_name) == ("/run/engine/engine.sock", ["n"])
    assert parsed.enable_lora is (slots != "0")
    assert parsed.allowed_media_domains == ["nothing.invalid"]


def test_an_engine_is_told_of_the_collector_of_spans(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    parsed = vllm.parse_args(engine_arguments(options(), "[]"))
    assert parsed.otlp_traces_endpoint == "http://collector:4318/v1/traces"


URLS = ["http://169.254.169.254/latest/meta-data", "https://images.example/cat.png", "http://NOTHING.example"]


@pytest.mark.parametrize("url", URLS)
def test_an_engine_fetches_no_image(vllm: Any, url: str) -> None:
    from vllm.multimodal.media import MediaConnector
    from vllm.multimodal.media.image import ImageMediaIO

    allowed = vllm.parse_args(engine_arguments(options(), "[]")).allowed_media_domains
    connector = MediaConnector(allowed_media_domains=allowed)
    with pytest.raises(ValueError, match="allowed domains"):
        connector.load_from_url(url, ImageMediaIO())
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
    assert connector.load_from_url(f"data:image/png;base64,{pixel}", ImageMediaIO())


def test_an_engine_is_told_to_report_no_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.usage import usage_lib

    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(usage_lib, "_USAGE_STATS_ENABLED", None)
    assert usage_lib.is_usage_stats_enabled()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(usage_lib, "_USAGE_STATS_ENABLED", None)
    assert not usage_lib.is_usage_stats_enabled()


def test_what_the_image_sets_is_what_the_settings_refuse() -> None:
    both = (own_flags(options("--max-loras", slots)) for slots in ("0", "4"))
    named = {flag.replace("--no-", "--") for flags in both for flag in flags}
    assert named <= set(OWN_FLAGS)


def spellings(parser: Any) -> Iterator[str]:
    """Every way in which vLLM takes one of our flags."""
    for action in parser._actions:
        if set(OWN_FLAGS) & set(action.option_strings):
            for option in action.option_strings:
                yield from (option, f"{option}=x", option.replace("_", "-"))
                yield "--" + option[2:].replace("-", "_") if option.startswith("--") else option


def test_every_spelling_of_an_own_flag_is_refused_and_no_other_flag_is(vllm: Any) -> None:
    arguments: TypeAdapter[Any] = TypeAdapter(Arguments)
    for spelling in spellings(vllm):
        with pytest.raises(ValidationError, match="is set by the operator"):
            arguments.validate_python((spelling,))
    ours = set(spellings(vllm))
    others = {option for action in vllm._actions for option in action.option_strings} - ours
    assert [option for option in others if re.match(OWN_ARGUMENT, option)] == []
    for option in others:
        arguments.validate_python((option,))


SHORT = ["--api-k=x", "--lora-mod=x=/x", "--ssl-keyf=/x", "--worker-ext=x", "--served-model=x"]


@pytest.mark.parametrize("short", SHORT)
def test_a_beginning_that_vllm_takes_for_an_own_flag_is_refused(vllm: Any, short: str) -> None:
    assert vllm.parse_args([short]) != vllm.parse_args([])
    with pytest.raises(ValidationError, match="is set by the operator"):
        TypeAdapter(Arguments).validate_python((short,))


def test_the_chart_refuses_what_the_operator_refuses() -> None:
    schema = json.loads((ROOT / "charts/finetune-operator/values.schema.json").read_text())
    assert schema["definitions"]["engineArguments"]["items"]["not"]["pattern"] == OWN_ARGUMENT
