"""Addresses of models, datasets and artifacts: `scheme://...` to its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Scheme: TypeAlias = Literal["hf", "pvc", "configmap", "s3", "gs", "https"]

_REMOTE: tuple[Scheme, ...] = ("s3", "gs", "https")


class SourceError(ValueError):
    """An address that is not one of ours; the message says what to write instead."""


@dataclass(frozen=True)
class Source:
    """A parsed address.

    hf: `repo` is ORG/NAME, `dataset` tells the two sorts of repositories apart, `path` a file in it.
    pvc: `claim`, and the `path` below its root ("" is the root itself).
    configmap: `name`, and the key as `path`.
    s3, gs, https: the bucket, or the host with its port, as `host`; the key or path on it as `path`.
    """

    scheme: Scheme
    path: str = ""
    claim: str | None = None
    name: str | None = None
    host: str | None = None
    repo: str | None = None
    dataset: bool = False


def parse_source(address: str) -> Source:
    """The parts of an address; SourceError on one of no known scheme or with a path that leaves its root."""
    scheme, separator, rest = address.partition("://")
    parts = [part for part in rest.split("/") if part]
    if not separator or not parts or any(part in (".", "..") for part in parts):
        raise SourceError(_advice(address))
    if scheme == "pvc":
        return Source("pvc", "/".join(parts[1:]), claim=parts[0])
    if scheme == "configmap" and len(parts) == 2:
        return Source("configmap", parts[1], name=parts[0])
    if scheme == "hf":
        return _hub(address, parts)
    for remote in _REMOTE:
        if scheme == remote and len(parts) > 1:
            return Source(remote, "/".join(parts[1:]), host=parts[0])
    raise SourceError(_advice(address))


def _hub(address: str, parts: list[str]) -> Source:
    dataset = parts[0] == "datasets"
    owner_and_name, path = (parts[1:3], parts[3:]) if dataset else (parts[:2], parts[2:])
    if len(owner_and_name) < 2:
        raise SourceError(_advice(address))
    return Source("hf", "/".join(path), repo="/".join(owner_and_name), dataset=dataset)


def _advice(address: str) -> str:
    return (
        f"{address!r} is not an address; write hf://ORG/NAME, hf://datasets/ORG/NAME/FILE, s3://BUCKET/KEY, "
        "gs://BUCKET/KEY, https://HOST/PATH, pvc://CLAIM/PATH or configmap://NAME/KEY, without . or .. in "
        "the path."
    )
