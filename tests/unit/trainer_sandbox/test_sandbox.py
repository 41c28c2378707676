"""Programs that a model might write, run for real: what they may, what they may not, and that nothing is left."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.system() != "Linux", reason="seccomp is Linux's"),
]

PACKAGE = Path(__file__).parents[3] / "trainer_image"
NOBODY = 65534
# Not in a virtual environment of root's: the sandbox needs the standard library alone.
PYTHON = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable

FINE = [
    ("right code", "def double(x): return 2 * x", "assert double(4) == 8"),
    ("code of 100 kB", "x = 0\n" * 16_000 + "x = 1", "assert x == 1"),
    ("threads", "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()", "assert not t.is_alive()"),
    (
        "a thread that never ends",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()",
        "assert True",
    ),
    ("an event loop", "import asyncio\nasync def f(): return 1", "assert asyncio.run(f()) == 1"),
    ("a file in its own folder", "open('a.txt', 'w').write('a')", "assert open('a.txt').read() == 'a'"),
    ("a signal to itself", "import os\nos.kill(os.getpid(), 0)", "assert True"),
    ("hardly any environment", "import os", "assert set(os.environ) <= {'LC_CTYPE'}, os.environ"),
    ("only what the standard library has", "import sys", "assert not any('packages' in p for p in sys.path)"),
]  # fmt: skip

# Name, program, tests, and what the reason says.
WRONG = [
    ("a wrong answer", "def double(x): return x", "assert double(4) == 8, 'not 8'", "AssertionError: not 8"),
    ("no Python", "def double(x) return", "assert True", "SyntaxError"),
    ("a lone surrogate", "x = '\ud800'", "assert True", "Unicode"),
    ("a null byte", "x = '\0'", "assert True", "null bytes"),
    ("code that raises", "1 / 0", "assert True", "ZeroDivisionError"),
    ("endless recursion", "def f(): f()\nf()", "assert True", "RecursionError"),
    ("an end by sys.exit", "import sys\nsys.exit(0)", "assert False", "SystemExit"),
    ("an end by os._exit", "import os\nos._exit(0)", "assert False", r"before its tests did \(exit code 0\)"),
    ("an end by exec", "import os\nos.execv('/bin/true', ['true'])", "assert False", "before its tests did"),
    ("a crash", "import ctypes\nctypes.string_at(0)", "assert True", "SIGSEGV"),
    ("suicide", "import os\nos.kill(os.getpid(), 9)", "assert True", "SIGKILL"),
    ("a fork", "import os\nos.fork()", "assert True", "PermissionError"),
    ("a fork bomb", "import os\nwhile True:\n try: os.fork()\n except OSError: break\nassert 0, 'alone'", "", "alone"),
    ("a program", "import subprocess\nsubprocess.run(['true'])", "assert True", "PermissionError"),
    ("a pool", "from multiprocessing import Pool\nPool(2)", "assert True", "PermissionError"),
    ("a connection", "import socket\nsocket.create_connection(('127.0.0.1', 80))", "assert True", "PermissionError"),
    ("a download", "import urllib.request as u\nu.urlopen('http://127.0.0.1/')", "assert True", "URLError"),
    ("a resolved name", "import socket\nsocket.getaddrinfo('example.com', 80)", "assert True", "gaierror"),
    ("a netlink socket", "import socket\nsocket.socket(socket.AF_NETLINK)", "assert True", "PermissionError"),
    ("signals to the runner", "import os\nos.kill(os.getppid(), 9)", "assert True", "PermissionError"),
    ("signals to all", "import os\nos.kill(-1, 9)", "assert True", "PermissionError"),
    ("the runner's memory", "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')", "assert True", "PermissionError"),
    ("the runner's files", "import os\nos.listdir(f'/proc/{os.getppid()}/fd')", "assert True", "PermissionError"),
    (
        "limits for the runner",
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1))",
        "assert True",
        "PermissionError",
    ),
    ("more limits for itself", "import resource as r\nr.setrlimit(r.RLIMIT_AS, (-1, -1))", "", "ValueError|Permission"),
    ("too much memory", "x = bytearray(10**10)", "assert True", "MemoryError"),
    (
        "too large a file",
        "f = open('big', 'wb')\nfor _ in range(100): f.write(bytes(10**6))\nf.flush()",
        "assert True",
        "File too large",
    ),
    ("too many files", "x = [open('/dev/null') for _ in range(1000)]", "assert True", "Too many open files"),
    ("gigabytes of output", "while True: print('x' * 10**6)", "assert True", "it printed more than 1 MiB"),
    (
        "a forged report",
        "import os, time\n"
        "for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "    for line in (b'{\"loaded\": true}\\n', b'{\"passed\": \"yes\"}\\n'):\n"
        "        try: os.write(fd, line)\n"
        "        except OSError: pass\n"
        "os._exit(0)",
        "assert False",
        "before its tests did",
    ),
]  # fmt: skip
ENDLESS = [
    ("an endless loop", "while True: pass", "assert True"),
    ("a sleeper", "import time\ntime.sleep(10**6)", "assert True"),
    ("a sleeper that catches everything", "import time\nwhile True:\n try: time.sleep(9)\n except: pass", ""),
    ("endless tests", "x = 1", "while x: pass"),
    (
        "a report without an end",
        "import os\n"
        "fds = [int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) > 2]\n"
        "while True:\n"
        "    for fd in fds:\n"
        "        try: os.write(fd, b'x' * 65536)\n"
        "        except OSError: pass",
        "assert True",
    ),
]  # fmt: skip

Results = dict[str, dict[str, Any]]


def run(rows: list[tuple[str, ...]], folder: Path, *, seconds: float, user: int | None = None) -> Any:
    """The sandbox as a process of its own, which root runs as nobody; its results, by the programs' names."""
    lines = [
        {"id": name, "program": program, "tests": tests, "seconds": seconds}
        for name, program, tests, *_ in rows
    ]
    programs, results, files = folder / "programs.jsonl", folder / "results", folder / "files"
    programs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for place in (folder, results, files):
        place.mkdir(exist_ok=True)
        place.chmod(0o777)
    where = ["--programs", str(programs), "--results", str(results / "results.jsonl")]
    done = subprocess.run(
        [PYTHON, "-B", "-m", "finetune_trainer.sandbox", *where],
        text=True, capture_output=True, check=False, cwd="/", user=user,
        env={"PYTHONPATH": str(PACKAGE), "TMPDIR": str(files)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in results.iterdir()] == ["results.jsonl"]
    return [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with TemporaryDirectory() as name:
        yield Path(name)


def judged(rows: list[tuple[str, ...]], folder: Path, seconds: float) -> Results:
    found = run(rows, folder, seconds=seconds, user=NOBODY if os.geteuid() == 0 else None)
    return {result["id"]: result for result in found}


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """What all programs that end came to."""
    return judged([*FINE, *WRONG], folder, 60)


@pytest.mark.parametrize("name", [name for name, _, _ in FINE])
def test_code_may_compute_and_use_its_own_folder(results: Results, name: str) -> None:
    assert (results[name]["passed"], results[name]["reason"]) == (True, "")


@pytest.mark.parametrize(("name", "reason"), [(name, reason) for name, _, _, reason in WRONG])
def test_code_that_is_wrong_or_reaches_out_has_not_passed(results: Results, name: str, reason: str) -> None:
    assert results[name]["passed"] is False
    assert re.search(reason, results[name]["reason"]), results[name]["reason"]
    assert len(results[name]["reason"]) <= 400


def test_code_that_does_not_end_is_ended(folder: Path) -> None:
    before = time.monotonic()
    found = judged(ENDLESS, folder, 1)
    assert {result["passed"] for result in found.values()} == {False}
    ends = ("it did not end within 1 s", "SIGXCPU", "SIGKILL")
    assert all(any(end in result["reason"] for end in ends) for result in found.values()), found
    assert time.monotonic() - before < 60


def test_tests_that_are_no_python_say_nothing_about_the_code(folder: Path) -> None:
    found = judged([("broken", "x = 1", "assert x ==")], folder, 10)
    assert found["broken"]["passed"] is None
    assert "the tests are not valid Python" in found["broken"]["reason"]


def test_nothing_is_left_of_any_program(results: Results, folder: Path) -> None:
    assert list((folder / "files").iterdir()) == []
    mine = [path for path in Path("/proc").iterdir() if path.name.isdigit() and _runs_a_program(path)]
    assert mine == []


def _runs_a_program(process: Path) -> bool:
    try:
        return b"finetune_trainer/sandbox/program.py" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_what_programs_leave_beside_the_results_is_removed(folder: Path) -> None:
    results = folder / "results"
    program = (
        f"import os\nos.symlink('/etc/passwd', {str(results / 'results.jsonl')!r})\n"
        f"os.mkdir({str(results / 'more')!r})\nopen({str(results / 'more' / 'x')!r}, 'w').close()"
    )
    for left in results.glob("*"):
        left.unlink()
    found = judged([("leaves things", program, "assert True"), FINE[0]], folder, 20)
    assert {name: result["passed"] for name, result in found.items()} == {
        "leaves things": True,
        FINE[0][0]: True,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into processes that do not allow it")
def test_nothing_runs_where_a_program_could_look_into_the_runner(folder: Path) -> None:
    [refused] = run([FINE[0]], folder, seconds=10)
    assert "it could read the runner's memory" in refused["refused"]
