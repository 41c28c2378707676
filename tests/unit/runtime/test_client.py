"""The client: throttling, absent objects, cut connections."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.configuration import Configuration
from finetune_operator.runtime.kube import KubernetesApi
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
    nowhere = KubernetesApi(Configuration("http://127.0.0.1:1"), lambda *seen: requests.append(seen))
    with pytest.raises(ApiError) as caught:
        await nowhere.get(JOB, "demo", "a")
    await nowhere.close()
    assert caught.value.status == 0
    assert requests == [("get", 0)]


async def test_a_document_that_the_server_does_not_have_is_none(api: Any) -> None:
    assert await api.document("/apis/finetune.dev/v1alpha1") is None


def _expired() -> str:
    raise OSError("Token file exists but is empty.")


async def test_a_token_that_cannot_be_read_is_an_error_of_the_request_and_of_the_watch(server: Any) -> None:
    api = KubernetesApi(Configuration(server.url, authorization=_expired), lambda *_: None)
    with pytest.raises(ApiError, match="empty"):
        await api.get(JOB, "demo", "a")
    with pytest.raises(ApiError, match="empty"):
        await anext(api.watch(JOB, "demo", None, "1"))
    await api.close()


async def test_a_token_is_read_again_once_the_server_refuses_it(server: Any) -> None:
    tokens = iter(["Bearer old", "Bearer new"])
    api = KubernetesApi(Configuration(server.url, authorization=lambda: next(tokens)), lambda *_: None)
    server.fault("GET", f"{JOBS}/a", 401, "Unauthorized")
    server.put(f"{JOBS}/a")
    with pytest.raises(ApiError, match="Unauthorized"):
        await api.get(JOB, "demo", "a")
    assert await api.get(JOB, "demo", "a")
    await api.close()
    assert [headers.get("Authorization") for headers in server.headers] == ["Bearer old", "Bearer new"]


async def test_a_fence_stops_writes_and_no_reads(server: Any) -> None:
    def closed() -> None:
        raise ApiError(0, "NotLeading", "another replica leads")

    api = KubernetesApi(Configuration(server.url), lambda *_: None, closed)
    server.put(f"{JOBS}/a")
    assert await api.get(JOB, "demo", "a")
    for write in (
        api.create(JOB, "demo", {}),
        api.delete(JOB, "demo", "a", {"uid": "u"}),
        api.patch(JOB, "demo", "a", {}),
    ):
        with pytest.raises(ApiError, match="another replica leads"):
            await write
    await api.close()
    assert [method for method, _ in server.seen] == ["GET"]
