"""An endpoint on the network that fails in the ways a real one may."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.scoring.endpoint import (
    Completion,
    Endpoint,
    EndpointFailed,
    Unusable,
    Usage,
    retry_after,
    untaken_parameter,
)
from tests.judge_stand_in import Reply, in_turn, judge_stand_in

MESSAGES = [{"role": "user", "content": "hello \ud800"}]
REQUEST = {"messages": MESSAGES, "tools": []}
PARAMETERS = {"temperature": 0, "seed": 0, "max_tokens": 5, "response_format": {"type": "json_schema"}}
KEY = "sk-very-secret"


async def ask(
    script: Any, read: Any = lambda answer: answer.text, seconds: float = 5.0
) -> tuple[Any, list[Any], Usage]:
    """The outcome of one question, the requests that it took, and their usage."""
    async with judge_stand_in(script) as server, Endpoint(server.url, "m", KEY, seconds, 0.001) as endpoint:
        try:
            found = await endpoint.ask(REQUEST, PARAMETERS, read)
        except EndpointFailed as error:
            found = error
        return found, server.bodies, endpoint.usage


async def test_a_question_carries_model_key_and_parameters() -> None:
    async with (
        judge_stand_in(in_turn(Reply("yes"))) as server,
        Endpoint(server.url + "/", "m", KEY) as endpoint,
    ):
        answer: Completion = await endpoint.ask(REQUEST, PARAMETERS, lambda completion: completion)
    assert (answer.text, answer.finish) == ("yes", "stop")
    assert server.bodies[0] == {"model": "m", **REQUEST, **PARAMETERS}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert endpoint.usage == Usage(1, 100, 10)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(Reply(status=500), id="an error of the server"),
        pytest.param(Reply(status=429, headers={"Retry-After": "0"}), id="too many requests"),
        pytest.param(Reply(body="<html>"), id="no JSON"),
        pytest.param(Reply(body='{"choices": []}'), id="no choice"),
        pytest.param(Reply(body='{"choices": [{"message": null}]}'), id="no message"),
        pytest.param(Reply(body="[" * 200_000), id="depth without end"),
        pytest.param(Reply("x" * (1 << 21)), id="an answer of 2 MiB"),
        pytest.param(Reply(hangs=True), id="no answer in time"),
    ],
)
async def test_what_may_pass_is_tried_again(first: Reply) -> None:
    found, bodies, _ = await ask(in_turn(first, Reply("yes")), seconds=0.5)
    assert (found, len(bodies)) == ("yes", 2)


async def test_an_answer_of_no_use_is_asked_for_again_with_another_seed_and_counts_all_the_same() -> None:
    def read(answer: Completion) -> str:
        if answer.text != "yes":
            raise Unusable("it is not yes")
        return answer.text

    found, bodies, usage = await ask(in_turn(Reply("no"), Reply("no"), Reply("yes")), read)
    assert (found, [body["seed"] for body in bodies]) == ("yes", [0, 1, 2])
    assert usage == Usage(3, 300, 30)
    found, bodies, _ = await ask(in_turn(Reply("no")), read)
    assert (str(found), len(bodies)) == ("it failed 3 times, at last: it is not yes", 3)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_cannot_pass_is_not_tried_again_and_never_shows_the_key(status: int) -> None:
    said = json.dumps({"error": {"message": f"bad key {KEY}"}})
    found, bodies, _ = await ask(in_turn(Reply(status=status, body=said)))
    assert isinstance(found, EndpointFailed)
    assert f"HTTP {status}" in str(found)
    assert KEY not in str(found)
    assert len(bodies) == 1


async def test_an_endpoint_that_is_not_there_is_named_as_such() -> None:
    async with Endpoint("http://127.0.0.1:9/v1", "m", None, 1.0, 0.001) as endpoint:
        with pytest.raises(EndpointFailed, match="failed 3 times, at last: it cannot be reached"):
            await endpoint.ask(REQUEST, {}, lambda answer: answer)


def refusing(*names: str) -> Any:
    """An endpoint that takes none of these parameters and says which one it met first."""

    def script(body: dict[str, Any]) -> Reply:
        met = next((name for name in names if name in body), None)
        said = json.dumps({"error": {"message": f"Unsupported parameter: '{met}'"}})
        return Reply("yes") if met is None else Reply(status=400, body=said)

    return script


async def test_parameters_that_an_endpoint_does_not_take_are_left_out_from_then_on() -> None:
    script = refusing("response_format", "temperature", "max_tokens")
    async with judge_stand_in(script) as server, Endpoint(server.url, "m", None) as endpoint:
        for _ in range(2):
            assert await endpoint.ask(REQUEST, PARAMETERS, lambda answer: answer.text) == "yes"
    assert len(server.bodies) == 5
    assert server.bodies[-1] == {"model": "m", **REQUEST, "seed": 0, "max_completion_tokens": 5}


async def test_a_limit_on_tokens_that_the_context_has_no_room_for_is_left_out() -> None:
    def script(body: dict[str, Any]) -> Reply:
        limited = body.keys() & {"max_tokens", "max_completion_tokens"}
        return Reply(status=400, body="maximum context length is 4096 tokens") if limited else Reply("yes")

    found, bodies, _ = await ask(script)
    assert (found, len(bodies)) == ("yes", 3)
    assert bodies[-1].keys() == {"model", "messages", "tools", "temperature", "seed", "response_format"}


async def test_answers_whose_tokens_nobody_counted_are_known() -> None:
    body = json.dumps({"choices": [{"message": {"content": "yes"}}]})
    found, _, usage = await ask(in_turn(Reply(body=body)))
    assert (found, usage) == ("yes", Usage(1, 0, 0, 1))


def test_a_key_that_cannot_be_sent_is_refused_without_showing_it() -> None:
    with pytest.raises(UserError, match="holds characters that no key has") as caught:
        Endpoint("http://judge/v1", "m", "sk-\u00e9\nsecret")
    assert "secret" not in str(caught.value)


async def test_one_request_that_is_refused_for_itself_changes_no_later_one() -> None:
    too_long = Reply(status=400, body='{"error": {"message": "the prompt is longer than the context"}}')
    script = in_turn(too_long, too_long, Reply("yes"))
    async with judge_stand_in(script) as server, Endpoint(server.url, "m", None) as endpoint:
        with pytest.raises(EndpointFailed, match="refuses the request: the prompt is longer"):
            await endpoint.ask(REQUEST, PARAMETERS, lambda answer: answer.text)
        await endpoint.ask(REQUEST, PARAMETERS, lambda answer: answer.text)
    assert server.bodies[-1].keys() >= PARAMETERS.keys()


@pytest.mark.parametrize(
    ("said", "sent", "name"),
    [
        ("temperature does not support 0", ["temperature", "response_format"], "temperature"),
        ("guided decoding is off", ["seed", "response_format"], "response_format"),
        ("something is wrong", ["seed", "response_format"], "response_format"),
        ("something is wrong", ["seed"], None),
    ],
    ids=["named", "by another name", "unnamed", "unnamed and no format sent"],
)
def test_the_parameter_of_a_refusal(said: str, sent: list[str], name: str | None) -> None:
    assert untaken_parameter(said, sent) == name


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (None, 0, 0),
        ("7", 7, 7),
        ("86400", 60, 60),
        ("-1", 0, 0),
        ("nan", 0, 0),
        ("soon", 0, 0),
    ],
    ids=["absent", "seconds", "a day", "negative", "no number", "words"],
)
def test_how_long_a_server_asks_to_wait(header: str | None, least: float, most: float) -> None:
    assert least <= retry_after(header) <= most


def test_a_server_may_name_the_moment_to_wait_for() -> None:
    now = datetime.now(UTC)
    assert retry_after(format_datetime(now + timedelta(hours=9))) == 60
    assert retry_after(format_datetime(now - timedelta(hours=9))) == 0


async def test_what_a_server_asks_to_wait_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr("finetune_trainer.scoring.endpoint.asyncio.sleep", noted)
    await ask(in_turn(Reply(status=429, headers={"Retry-After": "9"}), Reply("yes")))
    assert 9 in waited
