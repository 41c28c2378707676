"""What an administrator reads when the operator cannot start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.app import require_crds
from finetune_operator.contracts.settings import SettingsError
from finetune_operator.runtime.process.lifecycle import StartError
from finetune_operator.settings import load_settings


async def test_missing_crds_are_named_with_the_way_to_install_them(server: Any, api: Any) -> None:
    path = "/apis/finetune.dev/v1alpha1"
    server.objects[path] = {"resources": [{"name": "finetunejobs"}, {"name": "finetunejobs/status"}]}
    with pytest.raises(StartError, match=r"modelservers, adapterdeployments .*kubectl apply .*Helm"):
        await require_crds(api)


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
