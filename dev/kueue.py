"""`python -m dev kueue`: real Kueue in the embedded cluster, by its own chart."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from dev.chart import ChartError
from dev.cluster import binaries
from dev.images import registry
from dev.images.buildah import Buildah

VERSION = "v0.15.2"
NAMESPACE = "kueue-system"
_MODULE = "sigs.k8s.io/kueue"
_PROGRAM = binaries.Program(f"{_MODULE}/cmd/kueue", VERSION)
_REPOSITORY = f"{registry.PREFIX}/kueue"
# Its certificate may reach the mounted Secret only at the kubelet's next sync of the pod, and Kueue looks for
# it at intervals that double: 202 s were seen.
_WAIT_SECONDS = 400
_CONFIGURATION = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": ":8081"},
    "metrics": {"bindAddress": ":8443"},
    "webhook": {"port": 9443},
    "leaderElection": {"leaderElect": False},
    "integrations": {"frameworks": ["batch/job"]},
}


def install(home: Path, kubeconfig: Path, helm: Path) -> None:
    """Build what is missing, install the release and wait until it is ready; ChartError when it is not."""
    _provide_image(home)
    chart = binaries.module_folder(_MODULE, VERSION) / "charts" / "kueue"
    command = [str(helm), "upgrade", "--install", "kueue", str(chart), "--kubeconfig", str(kubeconfig)]
    flags = ["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", f"{_WAIT_SECONDS}s"]
    wanted = json.dumps(values())
    done = subprocess.run(
        [*command, *flags, "--values", "-"], input=wanted, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChartError(f"Kueue could not be installed: {done.stderr.strip()}")


def uninstall(kubeconfig: Path, helm: Path) -> None:
    """Remove the release; its chart has the CRDs, so queues and Workloads go too."""
    command = [str(helm), "uninstall", "kueue", "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE]
    done = subprocess.run([*command, "--wait"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartError(f"Kueue could not be removed: {done.stderr.strip()}")


def values() -> dict[str, object]:
    """The chart's values for this machine: one small replica that manages Jobs which name a queue."""
    manager = {
        "image": {"repository": _REPOSITORY, "tag": VERSION, "pullPolicy": "IfNotPresent"},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "podSecurityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "controllerManager": {"manager": manager, "readinessProbe": {"initialDelaySeconds": 1}},
        "managerConfig": {"controllerManagerConfigYaml": json.dumps(_CONFIGURATION)},
    }


def _provide_image(home: Path) -> None:
    """The binary alone at the place that the chart expects."""
    reference = f"{_REPOSITORY}:{VERSION}"
    registry.start(home)
    if registry.has(reference):
        return
    buildah = Buildah(home)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy2(binaries.ensure_apart("kueue", _PROGRAM), Path(folder) / "manager")
        Path(folder).chmod(0o755)
        buildah.commit_folder(Path(folder), reference)
    buildah.push(reference)
