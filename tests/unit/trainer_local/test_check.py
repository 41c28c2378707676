"""`python -m finetune_trainer check` as a user types it."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.__main__ import main


def row(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "completion": f"answer {number}"}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(*arguments: object) -> int:
    try:
        return main(["check", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code or 0)


def found(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], set[str]]:
    document = json.loads(capsys.readouterr().out)
    return document, {finding["rule"] for finding in document["findings"]}


def test_clean_rows_end_with_0_and_are_counted_in_tokens(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, holdout = write(tmp_path / "a.jsonl", [row(n) for n in range(120)]), tmp_path / "b.jsonl"
    write(holdout, [row(n) for n in range(200, 320)])
    assert check(data, "--holdout", holdout, "--model", base, "--output", "json") == 0
    document, _ = found(capsys)
    assert document["rows"] == 120
    assert document["tokens"] > 120


def test_a_wrong_row_ends_with_1_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "a.jsonl", [row(1), {"messages": []}, row(3)])
    assert check(data, "--output", "json") == 1
    document, rules = found(capsys)
    assert {"missing_messages_list", "mixed_formats"} <= rules
    wrong = next(item for item in document["findings"] if item["rule"] == "missing_messages_list")
    assert (wrong["severity"], wrong["count"], wrong["rows"], wrong["dataset"]) == ("error", 1, [2], "train")
    assert (document["rows"], document["tokens"]) == (3, None)


def test_a_leak_between_the_files_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "a.jsonl", [row(n) for n in range(120)])
    assert check(data, "--holdout", data, "--output", "json") == 1
    assert "leak_exact" in found(capsys)[1]


def test_a_row_beyond_the_models_context_is_an_error_only_with_a_model(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(
        tmp_path / "a.jsonl",
        [*map(row, range(100)), {"prompt": "question", "completion": "answer " * 400}],
    )
    assert check(data) == 0
    assert check(data, "--model", base) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "too_long" in told
    # training.maxLength cannot be raised beyond the model's positions
    assert "take a base model with more positions or shorten them" in told


def test_a_chat_template_that_is_no_jinja_is_named(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(base, tmp_path / "base")
    (broken / "chat_template.jinja").write_text("{% for message in messages %}")
    data = write(tmp_path / "a.jsonl", [row(n) for n in range(120)])
    assert check(data, "--model", broken, "--output", "json") == 1
    (wrong,) = [item for item in found(capsys)[0]["findings"] if item["severity"] == "error"]
    assert wrong["message"].startswith("The base model's chat template cannot be read: Unexpected end")


def test_a_date_that_only_some_rows_get_is_told(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row has a system message of its own; the others get the template's, with the date."""
    dated = shutil.copytree(base, tmp_path / "base")
    own = "{% if messages[0].role != 'system' %}{{ strftime_now('%d %B %Y') }}{% endif %}"
    (dated / "chat_template.jinja").write_text(own + (base / "chat_template.jinja").read_text())
    first = {**row(0), "system": "Answer briefly."}
    data = write(tmp_path / "a.jsonl", [first, *(row(n) for n in range(1, 120))])
    assert check(data, "--model", dated, "--output", "json") == 0
    assert "template_date" in found(capsys)[1]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"model_type": "llama", "num_hidden_layers": "two"}', "says num_hidden_layers: two"),
        ("tokenizer.json", '{"model": {}}', "tokenizer cannot be loaded"),
    ],
    ids=["a size that is a word", "a tokenizer without its parts"],
)
def test_a_broken_base_is_named(
    file: str, text: str, message: str, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(base, tmp_path / "base")
    (broken / file).write_text(text)
    assert check(write(tmp_path / "a.jsonl", [row(1)]), "--model", broken) == 64
    assert message in capsys.readouterr().err


def test_the_terminal_report_starts_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(write(tmp_path / "a.jsonl", [row(1), [1]])) == 1
    assert capsys.readouterr().out.startswith("refused   2 errors to mend")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder / "absent.jsonl",
        lambda folder: folder,
        lambda folder: write(folder / "empty.jsonl", []),
    ],
    ids=["a file that is not there", "a folder", "an empty file"],
)
def test_what_cannot_be_read_ends_with_64_and_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any
) -> None:
    path = make(tmp_path)
    assert check(path) == 64
    assert str(path) in capsys.readouterr().err


def test_all_files_of_a_folder_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        write(tmp_path / f"part-{number}.jsonl", [row(number)])
    check(tmp_path, "--output", "json")
    assert json.loads(capsys.readouterr().out)["rows"] == 2


def test_a_cut_gzip_file_ends_with_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row(1)).encode() * 100)[:-10])
    assert check(path) == 64
    assert "a.jsonl.gz is damaged" in capsys.readouterr().err


def test_a_folder_without_a_tokenizer_ends_with_64(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(base, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert check(write(tmp_path / "a.jsonl", [row(1)]), "--model", bare) == 64
    assert "tokenizer" in capsys.readouterr().err


def _no_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()


def _a_cut_file_beside_the_weights(base: Path) -> None:
    """The index does not name it; the fingerprint covers every weight file."""
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "model-00001-of-00002.safetensors").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_weights, "folder holds no *.safetensors file"),
        (_a_cut_file_beside_the_weights, "model-00001-of-00002.safetensors is not a complete"),
    ],
)
def test_damaged_weights_are_refused_by_check_and_prepare_with_one_sentence(
    damage: Callable[[Path], None], says: str, tmp_path: Path, base: Path, write_job: Callable[..., Path],
    rows: tuple[str, ...], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damaged = shutil.copytree(base, tmp_path / "damaged")
    damage(damaged)
    assert check(rows[1], "--model", damaged) == 64
    said = capsys.readouterr().err
    assert says in said
    job, work = str(write_job()), str(tmp_path / "work")
    assert main(["prepare", "--job", job, *rows, "--model", str(damaged), "--work", work]) == 64
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"model_type": "new", "auto_map": {"AutoConfig": "configuration.New"}},
            "code from its repository (auto_map) is not run",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)"),
    ],
    ids=["code of its own", "quantised weights"],
)
def test_a_base_that_prepare_refuses_is_refused_here_too(
    fields: dict[str, Any], says: str, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = write(tmp_path / "a.jsonl", [row(n) for n in range(120)]), tmp_path / "base"
    shutil.copytree(base, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **fields}))
    assert check(data, "--model", model) == 64
    assert says in capsys.readouterr().err
