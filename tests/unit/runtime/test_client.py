"""The client: throttling, absent objects, cut connections."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.resources import JOB

JOBS = "/apis/batch/v1/namespaces/demo/jobs"


async def test_a_throttled_request_is_repeated(server: Any, api: Any, requests: list[Any]) -> None:
    server.fault("GET", f"{JOBS}/a", 429, "TooManyRequests", **{"Retry-After": "0"})
    server.put(f"{JOBS}/a")
    assert (await api.get(JOB, "demo", "a"))["metadata"]["name"] == "a"
    assert requests == [("get", 429), ("get", 200)]


async def test_an_absent_object_is_none_and_a_refusal_is_an_error(server: Any, api: Any) -> None:
    server.fault("GET", f"{JOBS}/b", 403, "Forbidden")
    assert await api.get(JOB, "demo", "a") is None
    with pytest.raises(ApiError) as caught:
        await api.get(JOB, "demo", "b")
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden")


async def test_no_answer_is_an_error_with_status_0(server: Any, api: Any, requests: list[Any]) -> None:
    api._configuration.host = "http://127.0.0.1:1"
    with pytest.raises(ApiError) as caught:
        await api.get(JOB, "demo", "a")
    assert caught.value.status == 0
    assert requests == [("get", 0)]


async def test_an_api_group_that_is_not_installed_has_no_kinds(api: Any) -> None:
    assert await api.kinds("finetune.dev/v1alpha1") == frozenset()
