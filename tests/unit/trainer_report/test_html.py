"""The page as a browser's parser sees it."""

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.evaluation import drawings
from finetune_trainer.evaluation.document import GradedAnswer, ShownRow
from finetune_trainer.evaluation.rows import cut
from finetune_trainer.report.document import DataFile, Datasets, DataSummary, Example, Report, Token
from finetune_trainer.report.html import report_html
from tests.unit.trainer_report.examples import NEAR, clean, evaluated, evaluation, full, memory, refused

VOID = {"meta", "br", "hr", "img", "input", "link"}
ELSEWHERE = {"src", "href", "srcset", "action", "data", "poster"}


class Page(HTMLParser):
    """Elements, attributes and text; unbalanced elements are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.marked: dict[str, list[str]] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.attributes += given.items()
        if tag not in VOID:
            self._open.append((tag, given.get("class", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += ((name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] in ("style", "script"):
            return
        self.words.append(data)
        for _, kinds in self._open[-1:]:
            self.marked.setdefault(kinds, []).append(data)

    @property
    def text(self) -> str:
        """All text with single spaces."""
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("report", [clean(), refused(), full()], ids=["clean", "refused", "full"])
def test_the_page_is_whole_and_loads_nothing(report: Report) -> None:
    page = Page(report_html(report))
    assert page.tags[0] == "html"
    assert "script" not in page.tags
    assert not {name for name, _ in page.attributes} & ELSEWHERE
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in report_html(report)
    assert "None" not in page.text


@pytest.mark.parametrize(
    ("report", "headline"),
    [
        (clean(), "Ready to train"),
        (refused(), "4 errors to mend"),
        (full(), "2 warnings"),
        (full().model_copy(update={"memory": memory().model_copy(update={"fits": False})}), "Does not fit"),
        (full().model_copy(update={"findings": (replace(NEAR, overridden="Ignore"),)}), "Ready to train"),
    ],
    ids=["no finding", "errors", "warnings", "too large", "ignored findings do not count"],
)
def test_the_headline_is_the_verdict(report: Report, headline: str) -> None:
    page = report_html(report)
    assert f"<h1>{headline}" in page
    assert f"<title>{headline}" in page


def test_a_cost_above_the_budget_is_no_green_light() -> None:
    report = full()
    assert report.estimate is not None
    poor = report.model_copy(update={"estimate": report.estimate.model_copy(update={"budget": 1.0})})
    assert "<h1>Costs more than the budget allows" in report_html(poor)
    assert "above the budget of USD\N{NO-BREAK SPACE}1.00" in report_html(poor)


def test_parts_that_were_not_looked_at_are_not_there() -> None:
    page = Page(report_html(clean()))
    assert "svg" not in page.tags
    for heading in ("Lengths", "Memory", "Time and cost", "Duplicates", "Chosen settings", "Advice"):
        assert heading not in page.text


def test_findings_are_grouped_by_severity_and_the_ignored_ones_come_last() -> None:
    text = Page(report_html(refused())).text
    places = [
        text.index(heading) for heading in ("Errors", "Warnings", "For information", "Ignored by the job")
    ]
    assert places == sorted(places)
    assert text.index("secrets_pii") > places[-1]
    assert "set to Ignore in dataset.rules" in text
    assert "214 rows, the first are: 3 13 23" in text


def test_every_drawing_has_a_title_and_a_description() -> None:
    page = Page(report_html(full()))
    assert page.tags.count("svg") == page.tags.count("desc") == 6


def test_the_example_shows_each_token_with_its_mask() -> None:
    page = Page(report_html(full()))
    answer = "".join(page.marked["token trained"])
    assert answer.endswith('{"condition": "Pain", "sentiment": "positive"}')
    assert page.marked["token trained special"] == ["<|im_end|>"]
    assert "64 more context tokens" in page.text


def test_an_evaluated_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = report_html(evaluated())
    page = Page(text)
    assert page.tags.count("script") == 1
    assert not {name for name, _ in page.attributes} & ELSEWHERE
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    [policy] = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_the_verdict_and_the_scores_come_first() -> None:
    page = report_html(evaluated())
    assert "<h1>The tuned model is better than its base</h1>" in page
    text = Page(page).text
    places = [text.index(part) for part in ("68.3", "Result", "Row by row", "Before training", "Findings")]
    assert places == sorted(places)
    for figure in ("+54.2", "46.8", "61.1", "USD 1.36", "arithmetic"):
        assert figure in text


@pytest.mark.parametrize(
    "verdict", ["NoClearImprovement", "WorseThanBase", "Regressed", "Ungraded", "OfTomorrow"]
)
def test_a_verdict_is_never_shown_as_better_than_it_is(verdict: str) -> None:
    judged = evaluation().model_copy(update={"verdict": verdict, "promoted": False})
    page = report_html(full().model_copy(update={"evaluation": judged}))
    assert '<header class="good">' not in page
    assert "Not promoted" in page
    assert verdict in page


def test_every_shown_row_has_its_texts_and_the_kind_that_the_filter_looks_for() -> None:
    page = Page(report_html(evaluated()))
    kinds = [value for name, value in page.attributes if name == "data-outcome"]
    assert kinds == [row.outcome for row in evaluation().shown]
    assert page.tags.count("details") == page.tags.count("summary") == len(kinds)
    values = {value for name, value in page.attributes if name == "value"}
    assert values == set(kinds)


def test_prompts_stand_between_base_and_tuned_model_with_their_intervals() -> None:
    text = Page(report_html(evaluated())).text.replace("\N{NO-BREAK SPACE}", " ")
    table = text[text.index("Better prompts") : text.index("Other graders")]
    rows = (
        "base 14.1 % 9.7 % to 19.7 %",
        "base with the prompt shots 31.0 % 24.0 % to 39.0 %",
        "tuned 68.3 %",
    )
    places = [table.index(row) for row in rows]
    assert places == sorted(places)


def test_a_long_name_of_a_prompt_is_cut_in_the_drawing_and_whole_in_the_table() -> None:
    name = "p" * 40
    judged = evaluation().model_copy(update={"rivals": {name: evaluation().base}})
    assert f">{'p' * 17}…</text>" in drawings.scores(judged)
    assert f"<code>{name}</code>" in report_html(full().model_copy(update={"evaluation": judged}))


def test_that_a_prompt_may_be_enough_stands_before_the_scores() -> None:
    said = "With the prompt <shots> the base alone scores 66.0 %: the prompt may be enough."
    judged = evaluation().model_copy(update={"prompt_alone": said})
    text = Page(report_html(full().model_copy(update={"evaluation": judged}))).text
    assert text.index("Result") < text.index(said) < text.index("Mean score")
    assert "may be enough" not in Page(report_html(evaluated())).text


def test_suites_have_rows_scores_difference_margin_and_verdict() -> None:
    text = Page(report_html(evaluated())).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "general 129 62.0 % 60.5 % -1.5 points -4.1 points 5.0 % holds" in text
    assert "arithmetic 90 31.0 % 25.0 % -6.0 points -11.0 points 5.0 % may be worse" in text


HOSTILE = "</pre></details></script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\u202eevil"


def test_hostile_answers_stay_text_and_turn_nothing_around() -> None:
    answer = GradedAnswer(output=cut(HOSTILE * 2000), score=None, reason=HOSTILE)
    row = ShownRow(
        id=HOSTILE, row=None, group=HOSTILE, outcome="loss", prompt=cut(HOSTILE), reference=cut(HOSTILE),
        base=answer, tuned=answer,
    )  # fmt: skip
    judged = evaluation().model_copy(update={"shown": (row,), "verdict": HOSTILE, "metric": HOSTILE})
    text = report_html(full().model_copy(update={"evaluation": judged}))
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert "\u202e" not in text
    assert len(text) < 150_000


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_no_text_from_data_becomes_markup(text: str) -> None:
    hostile = f"<script>{text}</script>\"'><img onerror=x>"
    train = DataSummary(
        source=hostile, format=hostile, rows=2,
        files=(DataFile(name=hostile, rows=1), DataFile(name="b", rows=1)),
    )  # fmt: skip
    report = Report(
        datasets=Datasets(train=train),
        findings=(replace(NEAR, message=hostile, rule=hostile),),
        example=Example(row=1, tokens=(Token(text=hostile, id=1, trained=True),)),
        memory=memory().model_copy(
            update={"gpu": hostile, "suggestion": hostile, "breakdown": {hostile: 1.0}}
        ),
        training={hostile: hostile},
    )
    page = Page(report_html(report))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
