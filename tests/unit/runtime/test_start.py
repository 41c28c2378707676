"""What an administrator reads when the operator cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.__main__ import main
from finetune_operator.contracts.settings import SettingsError
from finetune_operator.settings import load_settings


def test_absent_settings_name_the_file_and_the_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.json.*FINETUNE_SETTINGS"):
        load_settings(tmp_path / "absent.json")


def test_a_misspelt_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"images": {"trainer": "a", "serving": "b"}, "progresSeconds": 3}')
    monkeypatch.setenv("FINETUNE_SETTINGS", str(file))
    with pytest.raises(SettingsError, match=r"settings\.json.*progresSeconds"):
        load_settings()


def test_the_settings_are_found_by_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"images": {"trainer": "a", "serving": "b"}}')
    monkeypatch.setenv("FINETUNE_SETTINGS", str(file))
    assert load_settings().images.trainer == "a"


def test_the_lease_is_named_with_its_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--lease", "operator"])
    assert "'operator' is not NAMESPACE/NAME" in capsys.readouterr().err
