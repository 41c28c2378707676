"""The command line that vLLM gets, and when its probe is content."""

import argparse
import os
import time
from pathlib import Path

import pytest

from finetune_serving.engine import engine_arguments
from finetune_serving.health import check, starting_file


def options(**changes: int | None) -> argparse.Namespace:
    given = {"max_loras": 1, "max_cpu_loras": 2, "max_lora_rank": 8, "max_model_len": None, **changes}
    names = {"model": "/m", "served_name": "n", "uds": "/s", "tensor_parallel_size": 1}
    return argparse.Namespace(**names, **given)


@pytest.mark.parametrize("extra", ["{}", "[1]", "--enforce-eager"])
def test_extra_arguments_that_are_no_list_of_strings_end_the_engine(extra: str) -> None:
    with pytest.raises(SystemExit, match="FT_ENGINE_ARGS"):
        engine_arguments(options(), extra)


def test_of_two_values_vllm_takes_the_last_which_is_the_servers() -> None:
    line = engine_arguments(options(), '["--max-loras", "9", "--uds", "/open"]')
    assert line.index("--max-loras") < len(line) - 1 - line[::-1].index("--max-loras")
    assert line[len(line) - line[::-1].index("--max-loras")] == "1"
    assert line[len(line) - line[::-1].index("--uds")] == "/s"


def test_the_administrator_may_allow_images_from_hosts_that_are_otherwise_refused() -> None:
    line = engine_arguments(options(), '["--allowed-media-domains", "images.example"]')
    assert line.index("nothing.invalid") < line.index("images.example")


def test_a_server_without_slots_has_no_flag_of_adapters() -> None:
    line = engine_arguments(options(max_loras=0), "[]")
    assert "--no-enable-lora" in line
    assert not {"--enable-lora", "--max-loras", "--max-cpu-loras", "--max-lora-rank"} & set(line)


def test_the_length_is_vllms_choice_unless_the_server_says_it() -> None:
    assert "--max-model-len" not in engine_arguments(options(), "[]")
    line = engine_arguments(options(max_model_len=2048), "[]")
    assert line[line.index("--max-model-len") + 1] == "2048"


def test_an_engine_that_loads_is_in_order_for_as_long_as_it_may_take(tmp_path: Path) -> None:
    socket = str(tmp_path / "engine.sock")
    starting_file(socket).touch()
    assert check(socket) == 1
    assert check(socket, start_seconds=60) == 0
    begun = time.time() - 61
    os.utime(starting_file(socket), (begun, begun))
    assert check(socket, start_seconds=60) == 1


def test_an_engine_that_was_up_and_answers_no_more_is_not(tmp_path: Path) -> None:
    assert check(str(tmp_path / "engine.sock"), start_seconds=60) == 1
