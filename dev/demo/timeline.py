"""How long each part took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table


class Timeline:
    """Named parts with their wall-clock seconds, in the order they ran."""

    def __init__(self, console: Console) -> None:
        """Parts are announced on `console` as they start."""
        self.console = console
        self.parts: list[tuple[str, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part; it counts also when it fails."""
        self.console.rule(f"[bold]{name}", align="left")
        start = time.monotonic()
        try:
            yield
        finally:
            self.parts.append((name, time.monotonic() - start))

    def table(self) -> Table:
        """One row per part and the sum."""
        table = Table(title="How long it took", title_justify="left")
        table.add_column("part")
        table.add_column("seconds", justify="right")
        for name, seconds in self.parts:
            table.add_row(name, f"{seconds:.0f}")
        table.add_row("all", f"{sum(s for _, s in self.parts):.0f}", style="bold")
        return table
