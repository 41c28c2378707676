"""Plots: well-formed for any numbers, and as large as the numbers say."""

from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.report import plots, svg
from finetune_trainer.report.document import Histogram
from finetune_trainer.report.scale import Axis, Mark, stagger, ticks

Svg = ElementTree.Element
AMOUNTS = st.floats(0, 1e12)
TEXTS = st.text(max_size=40)
MARKS = st.lists(st.builds(Mark, AMOUNTS, TEXTS), max_size=6)
PARTS = st.lists(st.tuples(TEXTS, AMOUNTS), max_size=12)


@st.composite
def histograms(draw: Callable[..., list[int]]) -> Histogram:
    """Histograms with edges as far apart as one likes."""
    widths = draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
    counts = draw(st.lists(st.integers(0, 10**9), min_size=len(widths), max_size=len(widths)))
    edges = [float(sum(widths[:i])) for i in range(len(widths) + 1)]
    return Histogram(edges=tuple(edges), counts=tuple(counts))


def drawn(text: str) -> Svg:
    """The parsed drawing, once it is well-formed and holds neither NaN nor infinity as a place."""
    root = ElementTree.fromstring(text)
    for element in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if name in element.attrib:
                assert abs(float(element.attrib[name])) < 1e6
    return root


def sizes(root: Svg, kind: str, name: str) -> list[float]:
    """The widths or heights of the rectangles of a kind."""
    return [
        float(item.attrib[name]) for item in root.iter() if item.attrib.get("class", "").split(" ")[0] == kind
    ]


@settings(max_examples=60, deadline=None)
@given(histograms(), MARKS, TEXTS)
def test_the_bars_of_a_histogram_are_as_high_as_their_counts(
    counted: Histogram, marks: list[Mark], title: str
) -> None:
    heights = sizes(drawn(plots.histogram(title, counted, marks)), "bar", "height")
    unit = max(heights) / max(1, *counted.counts, 1)
    assert heights == pytest.approx([unit * count for count in counted.counts], abs=0.01)
    assert max(heights) == pytest.approx(110 if any(counted.counts) else 0)


@settings(max_examples=60, deadline=None)
@given(PARTS, AMOUNTS, MARKS)
def test_the_parts_of_a_stacked_bar_add_up_to_their_sum(
    parts: list[tuple[str, float]], whole: float, marks: list[Mark]
) -> None:
    root = drawn(plots.stacked_bar("memory", parts, whole, str, marks))
    total = sum(size for _, size in parts)
    high = max([whole, total, *(mark.at for mark in marks)])
    expected = total / high * (svg.WIDTH - 28) if high > 0 and total / high > 1e-9 else 0
    assert sum(sizes(root, "part", "width")) == pytest.approx(expected, abs=0.01 * (len(parts) + 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(AMOUNTS, min_size=3, max_size=3), MARKS)
def test_a_cost_band_reaches_from_low_to_high(values: list[float], marks: list[Mark]) -> None:
    low, expected, high = sorted(values)
    root = drawn(plots.band("cost", (low, expected, high), str, marks))
    left, width = sizes(root, "band", "x")[0], sizes(root, "band", "width")[0]
    dot = next(float(item.attrib["cx"]) for item in root.iter() if item.attrib.get("class") == "expected")
    assert left - 0.02 <= dot <= left + width + 0.02


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.booleans()), max_size=20))
def test_the_strip_of_a_mask_is_filled_from_end_to_end(lengths: list[tuple[int, bool]]) -> None:
    root = drawn(plots.strip("mask", lengths))
    total = sum(sizes(root, "trained", "width")) + sum(sizes(root, "untrained", "width"))
    assert total == pytest.approx(svg.WIDTH if lengths else 0, abs=0.01 * (len(lengths) + 1))


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", 'a" onload="x', "a & b", "\x1b[31m\x00", "\ud800"]
)
def test_texts_of_a_drawing_are_escaped(hostile: str) -> None:
    root = drawn(plots.stacked_bar(hostile, [(hostile, 1.0)], 2.0, str, [Mark(1.0, hostile)]))
    assert {item.tag.rpartition("}")[2] for item in root.iter()} <= {
        "svg",
        "title",
        "desc",
        "rect",
        "line",
        "text",
    }
    assert all(not name.startswith("on") for item in root.iter() for name in item.attrib)


def test_a_drawing_says_in_words_what_it_shows() -> None:
    root = drawn(
        plots.histogram("Lengths", Histogram(edges=(0, 10, 20), counts=(3, 4)), [Mark(12, "p50 12")])
    )
    described = root.findtext("{*}desc")
    assert root.attrib["role"] == "img"
    assert root.findtext("{*}title") == "Lengths"
    assert described == "7 rows, 0 to 20 tokens. p50 12."


def test_a_limit_far_to_the_right_does_not_squeeze_the_bars() -> None:
    root = drawn(
        plots.histogram("Lengths", Histogram(edges=(0, 10), counts=(3,)), [Mark(8192, "limit", "limit")])
    )
    assert "limit →" in [item.text for item in root.iterfind(".//{*}text")]
    assert sum(sizes(root, "bar", "width")) > svg.WIDTH * 0.8
    assert not [item for item in root.iterfind(".//{*}line") if "limit" in item.attrib["class"]]


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(1, 80)), max_size=12))
def test_labels_on_one_level_never_overlap(places: list[tuple[float, float]]) -> None:
    spans = [(start, start + width) for start, width in places]
    levels = stagger(spans)
    for level in set(levels):
        row = sorted(span for span, own in zip(spans, levels, strict=True) if own == level)
        assert all(left[1] <= right[0] for left, right in pairwise(row))


@given(AMOUNTS, AMOUNTS)
def test_ticks_are_few_rising_and_within_the_ends(low: float, high: float) -> None:
    values = ticks(low, high)
    assert len(values) <= 12
    assert all(left < right for left, right in pairwise(values))
    assert all(low - 1e-6 <= value <= max(low, high) for value in values)


@given(AMOUNTS, AMOUNTS, st.floats(-1e12, 1e12))
def test_no_value_leaves_the_drawing(low: float, high: float, value: float) -> None:
    assert 0 <= Axis(low, high).x(value) <= svg.WIDTH
