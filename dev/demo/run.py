"""The demo itself: cluster, manifests of examples/drug-reviews, live progress, scores, answers, times."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from openai import OpenAI
from rich.console import Console
from rich.live import Live

from dev import assets
from dev.cluster import up
from dev.demo.objects import Cluster, Object, workspace_folder
from dev.demo.timeline import Timeline
from dev.demo.view import answers_table, condition, picture, plain_line, score_table

EXAMPLE = Path("examples/drug-reviews")
NAMESPACE = "demo"
RUN, SERVER, ALIAS = "drug-reviews-v1", "reviews", "drug-reviews"
POD_USER = 10001
RUN_LIMIT_SECONDS = 3600.0
WIDTH = 110


def main(home: Path) -> int:
    """Run everything; exit code 0 only when the tuned model answers behind the endpoint."""
    console = Console()
    console.width = max(console.width, WIDTH)  # a pipe says 80, too narrow for four columns
    timeline = Timeline(console)
    with timeline.part("Start the cluster and install the operator"):
        running = up.up(home)
    with timeline.part("Make the base model and the data ready"):
        model = assets.base_model(home)
    cluster = Cluster(running.kubeconfig, running.binaries / "kubectl", NAMESPACE)
    with timeline.part("Apply the manifests of examples/drug-reviews"):
        key = apply_example(cluster, model, console)
    with timeline.part("FineTuneJob: prepare, baseline, train, evaluate, publish"):
        job = follow_run(cluster, console)
    if condition(job, "Succeeded").get("status") != "True":
        console.print(f"[red]{condition(job, 'Succeeded').get('message')}")
        return 1
    with timeline.part("AdapterDeployment: roll the adapter into the server"):
        deployment = follow_rollout(cluster, console)
    console.print(score_table(job))
    with timeline.part("Ask the served endpoint"):
        show_answers(cluster, console, key)
    show_next_steps(cluster, console, job, deployment, key)
    console.print(timeline.table())
    return 0


def apply_example(cluster: Cluster, model: Path, console: Console) -> str:
    """Apply what a user would write, after clearing an earlier demo; returns the API key made for it."""
    clear(cluster)
    cluster.kubectl("apply", "-f", str(EXAMPLE / "storage.yaml"))
    fill_claim(cluster.volume_folder("base-models") / "smollm2-135m-instruct", model)
    data = [f"--from-file={EXAMPLE / 'data' / name}" for name in ("train.jsonl", "holdout.jsonl")]
    cluster.kubectl("create", "configmap", "drug-reviews", *data)
    key = "sk-demo-" + secrets.token_hex(12)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "reviews-keys"},
        "stringData": {"demo": key},
    }
    cluster.apply(secret)
    for name in ("finetunejob", "modelserver", "adapterdeployment"):
        console.print(f"$ kubectl apply -f {EXAMPLE / name}.yaml")
        console.print(cluster.kubectl("apply", "-f", str(EXAMPLE / f"{name}.yaml")).strip())
    return key


def clear(cluster: Cluster) -> None:
    """Remove what an earlier demo left: a published result would be adopted instead of trained."""
    kinds = "adapterdeployments,modelservers,finetunejobs,configmaps,secrets,persistentvolumeclaims"
    cluster.kubectl("delete", kinds, "--all", "--wait=true", "--timeout=180s")


def fill_claim(folder: Path, model: Path) -> None:
    """Put the base model into the volume, readable for the pods' user."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, POD_USER, POD_USER)


def follow_run(cluster: Cluster, console: Console) -> Object:
    """Show the run until it ends; on a terminal as bars, otherwise a line per change."""
    start = time.monotonic()
    job: Object = {}
    said = ""
    with Live(
        console=console, refresh_per_second=2, transient=False, auto_refresh=console.is_terminal
    ) as live:
        for job in cluster.changes("FineTuneJob", RUN, RUN_LIMIT_SECONDS):
            if console.is_terminal:
                live.update(picture(job, None, time.monotonic() - start))
            elif (line := plain_line(job)) != said:
                said = line
                print(f"  {time.monotonic() - start:5.0f} s  {line}", flush=True)
            if condition(job, "Succeeded").get("status") in ("True", "False"):
                break
    console.print(picture(job, None, time.monotonic() - start))
    return job


def follow_rollout(cluster: Cluster, console: Console) -> Object:
    """Await the alias being served; say what it waits for."""
    said = ""
    for deployment in cluster.changes("AdapterDeployment", ALIAS, 900):
        ready = condition(deployment, "Ready")
        line = f"{ready.get('reason', 'Pending')}: {ready.get('message', '')}"
        if line != said:
            said = line
            console.print(f"  {line}")
        if ready.get("status") == "True":
            return deployment
    raise TimeoutError(f"AdapterDeployment {ALIAS} is not ready after 900 s: {said}")


def show_answers(cluster: Cluster, console: Console, key: str) -> None:
    """Three held-out reviews, asked of the base and of the alias through the same endpoint."""
    client = OpenAI(base_url=address(cluster), api_key=key)
    models = [m.id for m in client.models.list()]
    console.print(f"models behind {address(cluster)}: {', '.join(models)}")
    base = next(m for m in models if m != ALIAS)
    rows = [json.loads(line) for line in (EXAMPLE / "data" / "holdout.jsonl").read_text().splitlines()[:3]]
    console.print(answers_table([_side_by_side(client, base, row["messages"]) for row in rows]))


def _side_by_side(client: OpenAI, base: str, messages: Sequence[dict[str, str]]) -> tuple[str, str, str, str]:
    *prompt, reference = messages
    answers = []
    for model in (base, ALIAS):
        answer = client.chat.completions.create(model=model, messages=prompt, temperature=0, max_tokens=48)  # type: ignore[arg-type]
        answers.append(answer.choices[0].message.content or "")
    return prompt[-1]["content"], answers[0], answers[1], reference["content"]


def address(cluster: Cluster) -> str:
    """The server's address as this machine reaches it (kube-proxy serves the node itself too)."""
    service = cluster.core.read_namespaced_service(f"{SERVER}-server", NAMESPACE)
    return f"http://{service.spec.cluster_ip}:8000/v1"


def show_next_steps(cluster: Cluster, console: Console, job: Object, deployment: Object, key: str) -> None:
    """The lines to try, and where the report is."""
    url = address(cluster)
    report = workspace_folder(cluster, RUN) / "dataset" / "report.html"
    console.print("[bold]Try it")
    print(f"  export KUBECONFIG={cluster.kubeconfig}")
    print("  kubectl -n demo get ftj,msv,adep")
    headers = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    print(f"  curl {url}/chat/completions {headers} -d @{EXAMPLE / 'request.json'}")
    client = f"OpenAI(base_url='{url}', api_key='{key}')"
    ask = f"{client}.chat.completions.create(**json.load(open('{EXAMPLE / 'request.json'}')))"
    print(f'  .venv/bin/python -c "import json; from openai import OpenAI; print({ask})"')
    print(f"  data report: {report}")
    print(f"  adapter: {job['status']['artifact']['destination']} {job['status']['artifact']['digest']}")
    print(f"  served as: {deployment['status']['serving']['version']}")
