"""Where the API server is and how to speak to it, from a kubeconfig file or the pod's service account.

The kubernetes client could read both, but its import alone takes 40 MiB, more than a thousand runs.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import items, mapping, text

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PROGRAMS = ("exec", "auth-provider")
log = logging.getLogger(__name__)


class ConfigurationError(Exception):
    """The API server cannot be reached with this; the message never quotes a key or a token."""


def nobody() -> None:
    """The authorization of a client certificate: no header."""


@dataclass(frozen=True)
class Configuration:
    """`authorization` gives the current Authorization header; it may read a file: call it in a thread."""

    url: str
    authorization: Callable[[], str | None] = nobody
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    server_name: str | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """Trust of the server and our client certificate; raises ConfigurationError."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # an SSLError too
            why = error.strerror or "no certificates"
            raise ConfigurationError(f"the certificates for {self.url} cannot be used: {why}") from None
        if not self.verify:
            log.warning("the certificate of the API server is not verified, as the kubeconfig asks")
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def load_configuration(kubeconfig: Path | None) -> Configuration:
    """Read it; raises ConfigurationError."""
    return (
        of_pod(os.environ.get("KUBERNETES_SERVICE_HOST", "")) if kubeconfig is None else of_file(kubeconfig)
    )


def of_pod(host: str, account: Path = ACCOUNT) -> Configuration:
    """What every pod with a service account finds."""
    token = account / "token"
    if not host or not token.exists():
        raise ConfigurationError("there is no service account here: give --kubeconfig outside of a cluster")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    return Configuration(url, _token_in(token), ca_file=str(account / "ca.crt"))


def of_file(path: Path) -> Configuration:
    """The current context of a kubeconfig file."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        raise ConfigurationError(f"{path} cannot be read") from None
    context = _entry(document, "contexts", text(document, "current-context"), "context")
    cluster = _entry(document, "clusters", text(context, "cluster"), "cluster")
    user = _entry(document, "users", text(context, "user"), "user")
    if not text(cluster, "server") or any(program in user for program in PROGRAMS):
        raise ConfigurationError(
            f"{path} needs a server and a user with a client certificate, a token or a tokenFile; programs "
            "that fetch credentials are not run"
        )
    return Configuration(
        url=text(cluster, "server").rstrip("/"),
        authorization=_authorization(user, path.parent),
        ca_file=_file(cluster, "certificate-authority", path.parent),
        cert_file=_file(user, "client-certificate", path.parent),
        key_file=_file(user, "client-key", path.parent),
        verify=cluster.get("insecure-skip-tls-verify") is not True,
        server_name=text(cluster, "tls-server-name") or None,
    )


def _entry(document: Manifest, section: str, name: str, kind: str) -> Manifest:
    return next((mapping(e, kind) for e in items(document, section) if e.get("name") == name), {})


def _authorization(user: Manifest, folder: Path) -> Callable[[], str | None]:
    token = text(user, "token")
    if token:
        return lambda: f"Bearer {token}"
    file = text(user, "tokenFile")
    return _token_in(folder / file) if file else nobody


def _token_in(file: Path) -> Callable[[], str]:
    """Read every time: the kubelet rotates it."""
    return lambda: f"Bearer {file.read_text().strip()}"


def _file(part: Manifest, name: str, folder: Path) -> str | None:
    """A file that is named, or one made of the data that stand in the kubeconfig."""
    data, named = text(part, f"{name}-data"), text(part, name)
    if not data:
        return str(folder / named) if named else None
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ConfigurationError(f"{name}-data of the kubeconfig is not base64") from None
    descriptor, path = tempfile.mkstemp(prefix=f"{name}-")  # readable by us alone
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path
