"""What is passed to the chat template and why (data rule 16, whatever the single row says)."""

from finetune_trainer.chat.options import TemplateOptions
from finetune_trainer.data.findings import Finding, Severity, present

_EVERYWHERE = "in training, evaluation and serving"


def template_findings(options: TemplateOptions, rows: int, reasoned: int) -> list[Finding]:
    """The findings about the options for `rows` conversations, `reasoned` of them trained with reasoning."""
    return present([_reasoning(options, rows, reasoned), _date(options)])


def _reasoning(options: TemplateOptions, rows: int, reasoned: int) -> Finding | None:
    switched = (item for item in options.kwargs.items() if isinstance(item[1], bool))
    switch = "".join(f" ({name}={str(value).lower()})" for name, value in switched)
    on = f"; thinking is on{switch} {_EVERYWHERE}" if switch else ""
    told: dict[str, tuple[Severity, str]] = {
        "on": ("info", f"All rows have reasoning{on}."),
        "off": ("info", f"No row has reasoning: thinking is off{switch} {_EVERYWHERE}."),
        "empty": (
            "warning",
            "The chat template begins every answer with reasoning and nothing switches it off: rows without "
            "any are trained to end it at once; take a base that answers directly, or give rows reasoning.",
        ),
        "mixed": (
            "warning",
            f"{reasoned} of {rows} rows have reasoning, and the others are trained to answer without{on}. "
            "Give reasoning to all rows or to none.",
        ),
    }
    if options.thinking is None:
        return None
    severity, text = told[options.thinking]
    return Finding(16, "template_reasoning", severity, reasoned, (), text)


def _date(options: TemplateOptions) -> Finding | None:
    if options.clock:
        text = (
            "The chat template writes today's date and takes it from the clock alone, so prompts in serving "
            "differ from those that are trained; write a fixed date in chat_template.jinja."
        )
        return Finding(16, "template_date", "warning", 1, (), text)
    dates = [f"{name}={value}" for name, value in options.kwargs.items() if isinstance(value, str)]
    if not dates:
        return None
    text = f"The chat template writes today's date; it stays that of this run ({dates[0]}) {_EVERYWHERE}."
    return Finding(16, "template_date", "info", 1, (), text)
