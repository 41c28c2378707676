"""The registry on this machine that the kubelet pulls from: Debian's docker-registry over a folder."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from dev.images.failure import ImageError

ADDRESS = os.environ.get("FINETUNE_DEV_REGISTRY", "127.0.0.1:5000")
PREFIX = f"{ADDRESS}/finetune-operator"
_START_SECONDS = 15.0
_STOP_SECONDS = 10.0
_MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


def start(home: Path) -> None:
    """Start the registry over `home`/registry unless ours runs; ImageError when the port is another's."""
    if _alive(home) and _answers():
        return
    if _answers():
        raise ImageError(
            f"{ADDRESS} is used by another program: stop it, or set FINETUNE_DEV_REGISTRY to a free address"
        )
    folder = home / "registry"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(json.dumps(_config(folder)))
    with (folder / "registry.log").open("a") as log:
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    _pid_file(home).write_text(str(started.pid))
    _wait_until_it_answers(started, folder)


def stop(home: Path) -> None:
    """Stop our registry; nothing happens when it does not run. What it holds stays."""
    if _alive(home):
        pid = int(_pid_file(home).read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _alive(home) and time.monotonic() < deadline:
            time.sleep(0.05)
    _pid_file(home).unlink(missing_ok=True)


def has(ref: str) -> bool:
    """Whether the registry holds `ref` (ADDRESS/name:tag)."""
    name, tag = ref.removeprefix(f"{ADDRESS}/").rsplit(":", 1)
    url = f"http://{ADDRESS}/v2/{name}/manifests/{tag}"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": _MANIFEST_TYPES})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise


def _config(folder: Path) -> dict[str, object]:
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": ADDRESS},
    }


def _pid_file(home: Path) -> Path:
    return home / "registry" / "registry.pid"


def _alive(home: Path) -> bool:
    """Whether the recorded process exists and still is a registry (numbers are used again)."""
    try:
        pid = int(_pid_file(home).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return b"docker-registry" in command


def _answers() -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{ADDRESS}/v2/", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _wait_until_it_answers(started: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if _answers():
            return
        if started.poll() is not None:
            break
        time.sleep(0.05)
    raise ImageError(f"the registry did not start on {ADDRESS}; its log is {folder / 'registry.log'}")
