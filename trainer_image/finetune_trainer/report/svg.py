"""The few SVG elements that the plots are made of, as text; colours and fonts come from the style sheet.

A drawing is `WIDTH` units wide and scales with the page. Every text is escaped here and nowhere else.
"""

from collections.abc import Iterable
from html import escape

from finetune_trainer.words import printable

WIDTH = 440
_NAMESPACE = "http://www.w3.org/2000/svg"


def drawing(kind: str, title: str, described: str, height: float, body: Iterable[str]) -> str:
    """A whole drawing with its title and its content in words for those who do not see it."""
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    stretched = ' preserveAspectRatio="none"' if kind == "strip" else ""
    name = _safe(f"{title}. {described}")
    head = f'<svg xmlns="{_NAMESPACE}" class="{kind}" role="img" {size}{stretched} aria-label="{name}">'
    told = f"<title>{_safe(title)}</title><desc>{_safe(described)}</desc>"
    return f"{head}{told}{''.join(body)}</svg>"


def rect(kind: str, x: float, y: float, width: float, height: float, told: str = "") -> str:
    """A rectangle; `told` is shown when one points at it."""
    place = f'x="{x:.2f}" y="{y:.2f}" width="{max(0.0, width):.2f}" height="{max(0.0, height):.2f}"'
    content = f"<title>{_safe(told)}</title>" if told else ""
    return f'<rect class="{kind}" {place}>{content}</rect>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>'


def curve(kind: str, points: Iterable[tuple[float, float]]) -> str:
    """A line through points (x, y)."""
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in points)}"/>'


def dot(kind: str, x: float, y: float, radius: float) -> str:
    """A filled circle."""
    return f'<circle class="{kind}" cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}"/>'


def label(kind: str, x: float, y: float, text: str) -> str:
    """A text, centred on its place unless its class says `start` or `end`."""
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(printable(text))
