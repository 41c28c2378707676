"""What Prometheus gets: names, zeros, refusals, what is left of versions that went."""

import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from finetune_serving.documents import Counts
from finetune_serving.gateway.metrics import engine_metrics
from tests.unit.serving.gateway.builders import BODY, CHAT, VERSION, Client, Engine, Setup

OF_REVIEWS = f'alias="reviews",version="{VERSION}"'


def samples(text: str) -> dict[str, float]:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(text)
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_every_listed_version_has_its_series_at_zero(setup: Setup) -> None:
    text = setup.metrics()
    assert f'finetune_gateway_requests_total{{alias="reviews",code="200",version="{VERSION}"}} 0.0' in text
    for name in (
        "failures_total",
        "stream_errors_total",
        "requests_in_flight",
        "request_duration_seconds_count",
    ):
        assert f"finetune_gateway_{name}{{{OF_REVIEWS}}} 0.0" in text


AUTOSCALING = Path(__file__).parents[4] / "examples" / "autoscaling"


async def test_the_autoscaling_example_goes_by_a_gauge_of_every_version(setup: Setup) -> None:
    hpa, adapter, keda = (
        yaml.safe_load((AUTOSCALING / f"{name}.yaml").read_text())
        for name in ("hpa", "prometheus-adapter", "keda")
    )
    metric = hpa["spec"]["metrics"][0]["pods"]["metric"]["name"]
    (rule,), (trigger,) = adapter["rules"]["custom"], keda["spec"]["triggers"]
    (family,) = [f for f in text_string_to_metric_families(setup.metrics()) if f.name == metric]
    assert family.type == "gauge"
    assert set(family.samples[0].labels).isdisjoint({"namespace", "pod"}), "those are Prometheus' own"
    assert rule["name"]["as"] == rule["seriesQuery"].partition("{")[0] == metric
    assert trigger["metadata"]["query"].startswith(f"sum({metric}{{")
    assert hpa["spec"]["scaleTargetRef"] == keda["spec"]["scaleTargetRef"]


async def test_names_follow_prometheus_rules(client: Client, setup: Setup) -> None:
    await client.post(CHAT, json=BODY)
    for family in text_string_to_metric_families(setup.metrics()):
        assert not family.name.endswith("_created")
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert names <= {f"{family.name}_total"}
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


@pytest.mark.parametrize(
    ("path", "content", "labels"),
    [
        pytest.param(CHAT, {"model": "nobody"}, ",alias=,code=404,version=", id="an unknown model"),
        pytest.param("/nowhere", {}, ",alias=,code=404,version=", id="an unknown path"),
        pytest.param(CHAT, {}, ",alias=,code=400,version=", id="a bad request"),
        pytest.param(
            CHAT, {"model": "base", "n": 1000}, ",alias=,code=400,version=", id="a request too many"
        ),
        pytest.param(CHAT, BODY, ",alias=reviews,code=503,version=", id="an engine that is down"),
    ],
)
async def test_refusals_are_counted(
    client: Client, setup: Setup, path: str, content: Any, labels: str
) -> None:
    setup.book.engine_up = False
    response = await client.post(path, json=content)
    found = samples(setup.metrics())
    assert found["finetune_gateway_requests_total" + labels] == 1
    failures = sum(value for name, value in found.items() if "failures_total" in name)
    assert failures == (response.status == 503)


async def test_an_answer_is_counted_with_its_tokens_and_times(client: Client, setup: Setup) -> None:
    await client.post(CHAT, json=BODY)
    await (await client.post(CHAT, json=BODY | {"stream": True})).read()
    await setup.finished()
    found = samples(setup.metrics())
    of = f",alias=reviews,version={VERSION}"
    expected = {
        f"requests_total,alias=reviews,code=200,version={VERSION}": 2,
        "prompt_tokens_total" + of: 14,
        "generated_tokens_total" + of: 4,
        "request_duration_seconds_count" + of: 2,
        "time_to_first_token_seconds_count" + of: 1,
        "inter_token_latency_seconds_count" + of: 1,
        "requests_in_flight" + of: 0,
        "empty_answers_total" + of: 0,
    }
    assert {name: found["finetune_gateway_" + name] for name in expected} == expected


async def test_a_version_that_left_can_be_scraped_for_ten_minutes(
    client: Client, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.post(CHAT, json=BODY)
    targets = [{"version": "reviews--2", "weight": 100}]
    setup.manifest(routes=[{"alias": "reviews", "targets": targets}])
    assert f'code="200",version="{VERSION}"}} 1.0' in setup.metrics()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 599)
    setup.tick()
    assert f'code="200",version="{VERSION}"}} 1.0' in setup.metrics()
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    assert VERSION in setup.metrics()  # whoever scrapes changes nothing
    setup.tick()
    assert VERSION not in setup.metrics()
    assert setup.ledger.tally(VERSION) == Counts()


async def test_an_alias_that_cannot_be_had_is_named(setup: Setup) -> None:
    setup.book.unavailable = {"reviews": "why"}
    assert 'finetune_gateway_alias_unavailable{alias="reviews"} 1.0' in setup.metrics()


class TestKeys:
    """Counts by the name of the Secret entry."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> Path:
        folder = tmp_path / "keys"
        folder.mkdir()
        (folder / "anna").write_text("key-a")
        (folder / "torn").write_bytes(b"\xff\xfe\x00")
        return folder

    async def test_keys_are_counted_by_name_while_they_exist(
        self, client: Client, setup: Setup, keys: Path
    ) -> None:
        await client.post(CHAT, json=BODY, headers={"Authorization": "Bearer key-a"})
        await client.post(CHAT, json=BODY, headers={"Authorization": "Bearer wrong"})
        found = samples(setup.metrics())
        assert found["finetune_gateway_key_requests_total,code=200,key=anna"] == 1
        assert found["finetune_gateway_key_tokens_total,key=anna"] == 9
        assert found["finetune_gateway_requests_total,alias=,code=401,version="] == 1
        assert found["finetune_gateway_unusable_keys"] == 1
        (keys / "anna").unlink()
        setup.ring.refresh()
        assert "anna" not in setup.metrics()


async def test_the_engines_metrics_come_without_what_grows_without_bound(
    engine: Engine, setup: Setup
) -> None:
    text = (await engine_metrics(setup.gateway.engine)).decode()
    assert 'vllm:num_requests_running{engine="0"} 3.0' in text
    assert "lora_requests_info" not in text
    assert "_created" not in text


async def test_an_engine_that_is_down_leaves_the_other_metrics(engine: Engine, setup: Setup) -> None:
    await engine.stop()
    assert isinstance(setup.gateway.engine, aiohttp.ClientSession)
    assert (await engine_metrics(setup.gateway.engine)).startswith(b"#")
