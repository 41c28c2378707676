"""How the engine's answers are read, and what is made of none."""

import socket
from pathlib import Path

import pytest

from finetune_serving.agent.engine_client import (
    EngineClient,
    EngineLostError,
    EngineSlowError,
    _steps,
    refusal,
)
from tests.engine_stand_in import session


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            '{"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": [{"a": NaN}]}}]}', id="NaN"
        ),
        pytest.param(
            '{"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": [{"a": null}]}}]}', id="null"
        ),
        pytest.param(
            '{"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": [null]}}]}', id="no numbers"
        ),
        pytest.param('{"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": []}}]}', id="too few"),
        pytest.param('{"choices": [{"logprobs": null}]}', id="no log-probabilities"),
        pytest.param('{"choices": []}', id="no choice"),
        pytest.param("Internal Server Error", id="no JSON"),
    ],
)
def test_numbers_that_cannot_be_read_are_no_reading(text: str) -> None:
    assert _steps(text) is None


@pytest.mark.parametrize(
    ("status", "message", "reason", "retry"),
    [
        (
            500,
            "Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 16.",
            "RankTooLarge",
            False,
        ),
        (500, "vLLM does not yet support DoRA.", "UnsupportedAdapter", False),
        (500, "Adapter bias is not supported.", "UnsupportedAdapter", False),
        (500, "CUDA out of memory. Tried to allocate 20.00 MiB.", "LoadFailed", True),
        (500, "shapes cannot be multiplied", "LoadFailed", True),
        (404, "Loading lora x failed: No adapter found", "LoadFailed", True),
    ],
)
def test_a_refusal_is_final_when_its_text_is_about_the_adapter(
    status: int, message: str, reason: str, retry: bool
) -> None:
    error = refusal(status, f'{{"error": {{"message": "{message}"}}}}')
    assert (error.reason, error.retry) == (reason, retry)


async def test_a_full_backlog_is_slow_and_a_missing_socket_is_lost(tmp_path: Path) -> None:
    path = str(tmp_path / "e.sock")
    async with session(tmp_path / "e.sock") as calls:
        client = EngineClient(calls)
        with pytest.raises(EngineLostError):
            await client.identity()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            waiting = []
            for _ in range(3):
                waiting.append(one := socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect_ex(path)
            with pytest.raises(EngineSlowError):
                await client.identity()
            for one in waiting:
                one.close()
