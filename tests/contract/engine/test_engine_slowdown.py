"""The slowdown by LoRA that a server publishes, measured on real vLLM."""

import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.engine, pytest.mark.slow]
NAME = "finetune_server_lora_slowdown"


def test_a_server_at_rest_measures_and_publishes_what_its_adapter_costs(
    server: Any, adapters: dict[str, dict[str, Any]]
) -> None:
    one = adapters["one"]
    generation = server.state()["generation"] + 1
    server.write(generation, [one], reviews=one["name"])
    server.until(lambda state: state["ready"] and state["appliedGeneration"] == generation)
    found = published(server.agent_url)
    print(f"an answer takes {found[NAME + '_ratio']:.3f} times as long with an adapter of rank 8")
    assert 0.5 < found[NAME + "_ratio"] < 20
    assert 0 <= time.time() - found[NAME + "_measured_timestamp_seconds"] < 600
    assert server.state()["ready"]


def published(agent_url: str) -> dict[str, float]:
    """The values, once they are there: the server waits until nobody has asked anything for a while."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        families = text_string_to_metric_families(httpx.get(f"{agent_url}/metrics", timeout=10).text)
        found = {family.name: family.samples[0].value for family in families if family.name.startswith(NAME)}
        if found:
            return found
        time.sleep(0.5)
    pytest.fail("no slowdown was published")
