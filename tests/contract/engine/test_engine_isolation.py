"""Real vLLM beside an adapter that nothing can be done with."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]
WORDS = "the patient took medicine and slept well a quick brown fox jumps over lazy dogs in pain"


def answers(server: Any, models: list[str]) -> dict[tuple[str, int], tuple[int, str]]:
    """What each model says to prompts of many lengths."""
    found = {}
    for model in models:
        for length in (1, 2, 3, 5, 8, 12, 17):
            prompt = " ".join(WORDS.split()[:length])
            body = {"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
            headers = {"Authorization": f"Bearer {server.key}"}
            response = httpx.post(f"{server.url}/completions", json=body, headers=headers, timeout=60)
            found[model, length] = (response.status_code, response.json()["choices"][0]["text"])
    return found


def phase(state: dict[str, Any], entry: dict[str, Any]) -> str:
    return next((str(v["phase"]) for v in state["versions"] if v["name"] == entry["name"]), "")


def test_an_adapter_whose_numbers_overflow_changes_nobody_elses_answers(
    server: Any, adapters: dict[str, dict[str, Any]], make_adapter: Callable[..., str]
) -> None:
    """Its weights are finite, what comes of them is not; the next adapter is served as ever."""
    folder = server.folder / "sources" / "pvc" / "adapters" / "overflow"
    digest = make_adapter(folder, seed=7, strength=1e37)
    bad = {"name": "overflow--1", "source": "pvc://adapters/overflow", "digest": digest}
    one, two = adapters["one"], adapters["two"]
    generation = server.state()["generation"]
    server.write(generation + 1, [one], reviews=one["name"])
    server.until(lambda s: s["ready"] and s["appliedGeneration"] == generation + 1)
    before, engine = answers(server, ["tiny", "reviews"]), server.state()["engineId"]
    assert {status for status, _ in before.values()} == {200}

    server.write(generation + 2, [one, bad], reviews=one["name"])
    state = server.until(lambda s: phase(s, bad) == "Failed")
    print(next(v for v in state["versions"] if v["name"] == bad["name"]))
    assert answers(server, ["tiny", "reviews"]) == before

    server.write(generation + 3, [one, two], reviews=one["name"], second=two["name"])
    server.until(lambda s: phase(s, two) == "Ready")
    assert server.state()["engineId"] == engine
