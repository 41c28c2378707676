"""Configuration of the embedded cluster: names of its own, certificates, digests."""

import json
import ssl
import subprocess
import tomllib
from pathlib import Path

import pytest

from dev.cluster import binaries, bootstrap
from dev.cluster.home import State, home
from dev.cluster.machine import network
from dev.cluster.machine.remains import mounts_below
from dev.cluster.node import IDENTITIES, NODE_NAME, containerd_settings, corefile, kubelet_settings
from dev.cluster.pki import Identity, Pki, write_private

STATE = State(Path("/a home/x"))


def test_containerd_keeps_to_its_own_folders():
    settings = tomllib.loads(containerd_settings(STATE, "registry/pause:1"))
    places = [settings["root"], settings["state"], settings["grpc"]["address"]]
    places.append(settings["plugins"]["io.containerd.internal.v1.opt"]["path"])
    cri = settings["plugins"]["io.containerd.grpc.v1.cri"]
    places.append(cri["containerd"]["runtimes"]["runc"]["options"]["Root"])
    assert all(place.startswith("/a home/x/run/") for place in places)
    assert cri["sandbox_image"] == "registry/pause:1"
    assert cri["restrict_oom_score_adj"] is True


def test_the_kubelet_refuses_strangers(tmp_path):
    settings = kubelet_settings(STATE, Pki(tmp_path), Path("/r"))
    assert settings["authentication"]["anonymous"] == {"enabled": False}
    assert settings["authorization"] == {"mode": "Webhook"}


def test_names_outside_the_cluster_are_never_forwarded():
    assert "forward" not in corefile(Path("/k"))


def test_the_user_namespace_enforces_the_restricted_level():
    labels = {
        found["metadata"]["name"]: found["metadata"]["labels"]
        for found in bootstrap.objects()
        if found["kind"] == "Namespace"
    }
    assert labels["demo"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert set(labels) == {"demo", "finetune-system"}


def test_the_provisioner_may_touch_nothing_but_claims_and_volumes():
    (role,) = [
        found
        for found in bootstrap.objects()
        if found["kind"] == "ClusterRole" and found["metadata"]["name"] == "finetune:provisioner"
    ]
    assert {name for rule in role["rules"] for name in rule["resources"]} == {
        "persistentvolumeclaims",
        "persistentvolumes",
    }


def test_pod_addresses_come_from_files_in_the_state_folder():
    (plugin,) = json.loads(network.plugin_settings(Path("/state/cni")))["plugins"]
    assert plugin["ipam"]["dataDir"] == "/state/cni"
    assert plugin["bridge"] == network.POD_DEVICE


def test_only_the_node_is_in_the_group_of_nodes():
    nodes = {identity.user for identity in IDENTITIES if identity.group == "system:nodes"}
    assert nodes == {f"system:node:{NODE_NAME}"}
    assert not [identity for identity in IDENTITIES if identity.group == "system:masters"]


def test_the_home_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_DEV_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("FINETUNE_DEV_HOME")
    assert home() == Path.home() / ".cache" / "finetune-operator"


def test_down_removes_no_cache():
    kept = [STATE.containerd / "root", STATE.home / "bin", STATE.home / "registry", STATE.home / "assets"]
    for folder in STATE.ephemeral:
        assert all(folder != cache and folder not in cache.parents for cache in kept)


def test_cached_programs_are_returned_without_a_toolchain(monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_DEV_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "bin" / binaries.digest()
    folder.mkdir(parents=True)
    for name in ("kube-apiserver", "etcd"):
        (folder / name).touch()
    assert binaries.ensure(["kube-apiserver"]) == folder


def test_a_client_certificate_is_signed_by_the_clusters_authority(tmp_path):
    pki = Pki(tmp_path / "pki")
    pki.authority("ca")
    pki.issue(Identity("node", "system:node:a", "system:nodes"))
    pki.issue(Identity("server", "server", hosts=("IP:127.0.0.1",)))
    for name in ("node", "server"):
        command = ["openssl", "verify", "-CAfile", pki.certificate("ca"), pki.certificate(name)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    decoded = ssl._ssl._test_decode_cert(str(pki.certificate("node")))
    assert dict(pair for part in decoded["subject"] for pair in part) == {
        "organizationName": "system:nodes",
        "commonName": "system:node:a",
    }
    assert pki.key("node").stat().st_mode & 0o077 == 0
    before = pki.certificate("node").read_bytes()
    pki.issue(Identity("node", "system:node:a", "system:nodes"))
    assert pki.certificate("node").read_bytes() == before


def test_a_file_that_already_says_so_is_not_written_again(tmp_path):
    path = tmp_path / "settings"
    write_private(path, "a")
    first = path.stat()
    write_private(path, "a")
    assert path.stat().st_ino == first.st_ino
    assert path.stat().st_mtime_ns == first.st_mtime_ns
    write_private(path, "b")
    assert path.read_text() == "b"
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="mounts are read from Linux's /proc")
def test_mounts_below_a_folder_come_deepest_first():
    found = mounts_below(Path("/"))
    depths = [len(point.parts) for point in found]
    assert Path("/proc") in found
    assert depths == sorted(depths, reverse=True)
