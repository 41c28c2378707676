"""Times as Kubernetes writes them: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime


def format_time(moment: datetime) -> str:
    """A time with a zone as `2026-01-31T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The moment of an RFC 3339 string; ValueError for any other."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def moment_of(text: str | None) -> datetime | None:
    """The moment of an RFC 3339 string, None where it is missing or not one."""
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None
