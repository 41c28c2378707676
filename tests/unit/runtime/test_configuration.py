"""How the operator finds the API server: kubeconfig files and the pod's service account."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.runtime.configuration import ConfigurationError, of_file, of_pod

SECRET = "never-shown"


def kubeconfig(folder: Path, user: Any, **cluster: Any) -> Path:
    path = folder / "kubeconfig"
    document = {
        "current-context": "here",
        "contexts": [
            {"name": "there", "context": {"cluster": "d", "user": "u"}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_current_context_decides(tmp_path: Path) -> None:
    found = of_file(kubeconfig(tmp_path, {"token": SECRET}, **{"tls-server-name": "api.example"}))
    assert (found.url, found.server_name, found.verify) == ("https://10.0.0.1:6443", "api.example", True)
    assert found.authorization() == f"Bearer {SECRET}"


def test_certificates_may_be_files_beside_it_or_stand_inside(tmp_path: Path) -> None:
    inside = base64.b64encode(b"a certificate").decode()
    user = {"client-certificate-data": inside, "client-key": "key.pem"}
    found = of_file(kubeconfig(tmp_path, user, **{"certificate-authority": "ca.pem"}))
    assert (found.ca_file, found.key_file) == (str(tmp_path / "ca.pem"), str(tmp_path / "key.pem"))
    assert found.cert_file is not None
    assert Path(found.cert_file).read_bytes() == b"a certificate"
    assert Path(found.cert_file).stat().st_mode & 0o077 == 0
    assert found.authorization() is None


def test_a_token_file_is_read_every_time(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    found = of_file(kubeconfig(tmp_path, {"tokenFile": "token"}))
    assert found.authorization() == "Bearer first"
    (tmp_path / "token").write_text("second\n")
    assert found.authorization() == "Bearer second"


def test_a_pod_has_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (tmp_path / "token").write_text(SECRET)
    found = of_pod("fd00::1", tmp_path)
    assert (found.url, found.ca_file) == ("https://[fd00::1]:6443", str(tmp_path / "ca.crt"))
    assert found.authorization() == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"exec": {"command": "aws"}, "token": SECRET}, {}),
        ({"token": SECRET}, {"server": ""}),
        ({"token": SECRET, "client-key-data": "&"}, {}),
    ],
    ids=["a program fetches credentials", "no server", "data that are not base64"],
)
def test_what_cannot_be_used_is_said_without_secrets(tmp_path: Path, user: Any, cluster: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        of_file(kubeconfig(tmp_path, user, **cluster))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{", "just text", "users: [{name: u}]"], ids=["no YAML", "no mapping", "no context"]
)
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=str(path)):
        of_file(path)


def test_outside_of_a_cluster_a_kubeconfig_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--kubeconfig"):
        of_pod("", tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        of_file(kubeconfig(tmp_path, {"client-certificate": "absent.pem"})).ssl_context()
