"""Install the chart with real Helm: CRDs, roles and the operator, as a user of any cluster would."""

import json
import subprocess
from pathlib import Path

CHART = Path(__file__).resolve().parents[1] / "charts" / "finetune-operator"
RELEASE = "finetune-operator"
NAMESPACE = "finetune-system"
_WAIT = ("--wait", "--timeout", "240s")

# Two cores: one gibibyte of key-value cache is plenty for a small model, and pinning threads to cores
# would make the engine fight with everything else that runs here. Compiling the sampler's few operations
# would cost the first request of every engine 15 s and save none.
_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}

# Many stages at once on two cores, each slower for it.
_CPU_STAGES = {"cpu": "100m", "memory": "3Gi", "ephemeralStorage": "1Gi"}


class ChartError(RuntimeError):
    """Helm refused; the message is Helm's."""


def install(kubeconfig: Path, binaries: Path, images: dict[str, str], **changes: object) -> None:
    """Install or upgrade the release and wait until the operator is ready; ChartError when it does not.

    `images` maps operator, trainer and serving to references for the nodes; `changes` replace values.
    """
    wanted = json.dumps({**values(images), **changes})
    flags = ["--create-namespace", "--values", "-", *_WAIT]
    _helm(kubeconfig, binaries, "upgrade", "--install", RELEASE, str(CHART), *flags, stdin=wanted)


def rollback(kubeconfig: Path, binaries: Path, revision: int) -> None:
    """Go back to an earlier revision of the release and wait as `install` does."""
    _helm(kubeconfig, binaries, "rollback", RELEASE, str(revision), *_WAIT)


def deployed(kubeconfig: Path, binaries: Path) -> tuple[int, dict[str, str]]:
    """The current revision of the release and the images it was given."""
    status = json.loads(_helm(kubeconfig, binaries, "status", RELEASE, "--output", "json"))
    return int(status["version"]), dict(status["config"]["images"])


def _helm(kubeconfig: Path, binaries: Path, *arguments: str, stdin: str | None = None) -> str:
    command = [str(binaries / "helm"), *arguments, "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartError(f"helm {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def engine_type(cpuinfo: str) -> str:
    """bf16 where the processor has instructions for it (twice as fast as float32, elsewhere a sixth)."""
    fast = {"avx512_bf16", "amx_bf16"} & set(cpuinfo.split())
    return "bfloat16" if fast else "float32"


def values(images: dict[str, str]) -> dict[str, object]:
    """The chart's values for this machine."""
    shipped = {name: images[name] for name in ("operator", "trainer", "serving")}
    arguments = ["--enforce-eager", "--dtype", engine_type(Path("/proc/cpuinfo").read_text())]
    return {
        "images": shipped,
        "env": _ENV,
        "engineArgs": arguments,
        "cpuStages": _CPU_STAGES,
        "progressSeconds": 2,
    }
