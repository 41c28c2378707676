"""Another replica of the same server, for requests that this one's engine cannot begin with."""

from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
from yarl import URL

from finetune_serving.gateway.ledger import Call
from finetune_serving.gateway.proxy import REQUEST_ID_HEADER, Outgoing

HOP_HEADER = "x-finetune-hop"
# What belongs to one connection, or is said anew of the body.
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "host", "keep-alive", "transfer-encoding"}
)
# A replica without an engine, or without the alias so far; then the request is held here.
_NOT_BEGUN = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE})


class Peers:
    """The server's Service, behind which the ready replicas are."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = URL(address)

    def outgoing(self, path: str, content: bytes, headers: Mapping[str, str], call: Call) -> Outgoing:
        """The client's own request, key included, marked so that it is passed on only once."""
        ours = {**(call.trace or {}), REQUEST_ID_HEADER: call.request_id, HOP_HEADER: "1"}
        left_out = _OF_THE_CONNECTION | ours.keys()
        kept = {name: value for name, value in headers.items() if name.lower() not in left_out}
        url = self._address.with_path(path)
        return Outgoing(self._session, url, content, {**kept, **ours}, not_begun=_NOT_BEGUN)
