"""Processes known by pid files."""

import json
import os
import sys
from contextlib import suppress

import pytest

from dev.cluster.failure import ClusterError
from dev.cluster.process import Command, Supervisor, start_ticks

FOREVER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()",
]


@pytest.fixture
def supervisor(tmp_path):
    found = Supervisor(tmp_path)
    yield found
    found.stop(found.known(), grace=1)


def test_a_second_start_of_the_same_command_changes_nothing(supervisor):
    assert supervisor.start(Command("one", FOREVER))
    pid = supervisor.record("one").pid
    assert not supervisor.start(Command("one", FOREVER))
    assert supervisor.record("one").pid == pid


def test_a_changed_configuration_file_restarts_the_process(supervisor, tmp_path):
    settings = tmp_path / "settings"
    settings.write_text("a")
    command = Command("one", FOREVER, [settings])
    supervisor.start(command)
    pid = supervisor.record("one").pid
    settings.write_text("b")
    assert supervisor.start(command)
    assert supervisor.record("one").pid != pid
    assert start_ticks(pid) is None


def test_a_reused_pid_is_not_mistaken_for_ours_and_not_killed(supervisor):
    supervisor.start(Command("one", FOREVER))
    supervisor.stop(["one"])
    path = supervisor.pids / "one.json"
    path.write_text(json.dumps({"pid": os.getpid(), "ticks": 1, "digest": "x"}))
    assert supervisor.record("one") is None
    supervisor.stop(["one"])
    assert not path.exists()


@pytest.mark.parametrize(
    "content", ["", "{", '{"pid": 1}', "[]"], ids=["empty", "cut", "incomplete", "a list"]
)
def test_a_broken_pid_file_counts_as_no_process(supervisor, content):
    supervisor.pids.mkdir()
    (supervisor.pids / "one.json").write_text(content)
    assert supervisor.record("one") is None


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(supervisor):
    supervisor.start(Command("one", STUBBORN))
    pid = supervisor.record("one").pid
    wait_for_text(supervisor, "up")
    supervisor.stop(["one"], grace=0.2)
    assert start_ticks(pid) is None


def test_a_process_that_ended_is_explained_with_the_end_of_its_log(supervisor):
    supervisor.start(Command("one", [sys.executable, "-c", "print('no such socket', flush=True)"]))
    wait_for_text(supervisor, "no such socket")
    record = json.loads((supervisor.pids / "one.json").read_text())
    with suppress(ChildProcessError):  # subprocess may have collected it already, when it started another
        os.waitid(os.P_PID, record["pid"], os.WEXITED)
    with pytest.raises(ClusterError, match="no such socket"):
        supervisor.require_alive("one")


def wait_for_text(supervisor, text):
    """Until the log holds the text; the test's own time limit is the deadline."""
    while text not in supervisor.log("one").read_text():
        os.sched_yield()
