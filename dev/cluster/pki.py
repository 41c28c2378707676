"""The cluster's own certificate authorities and client certificates, made with openssl."""

import base64
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_DAYS = "3650"
_EMPTY = "[req]\ndistinguished_name = dn\n[dn]\n"
"""No defaults of the machine's openssl.cnf: its extensions would make every certificate an authority."""


@dataclass(frozen=True)
class Identity:
    """A certificate to issue; `hosts` (DNS:..., IP:...) make it a server's."""

    name: str
    user: str
    group: str = ""
    authority: str = "ca"
    hosts: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Kubernetes reads CN as the user and O as the group."""
        return (f"/O={self.group}" if self.group else "") + f"/CN={self.user}"

    @property
    def extensions(self) -> list[str]:
        """Client use always: etcd dials itself with its server certificate."""
        usage = "serverAuth,clientAuth" if self.hosts else "clientAuth"
        found = ["basicConstraints=critical,CA:FALSE", f"extendedKeyUsage={usage}"]
        return [*found, f"subjectAltName={','.join(self.hosts)}"] if self.hosts else found


class Pki:
    """Keys and certificates under one folder that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when it does not exist."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def certificate(self, name: str) -> Path:
        """The certificate file."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The private key file."""
        return self.folder / f"{name}.key"

    def authority(self, name: str) -> None:
        """Make a certificate authority once."""
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        self._request(name, f"/CN=finetune-{name}", extensions, [])

    def issue(self, identity: Identity) -> None:
        """Make a certificate once, signed by its authority."""
        signer = identity.authority
        ca = ["-CA", str(self.certificate(signer)), "-CAkey", str(self.key(signer))]
        self._request(identity.name, identity.subject, identity.extensions, ca)

    def signing_key(self, name: str) -> None:
        """Make a key pair once: `name`.key signs service account tokens, `name`.pub checks them."""
        if not self.key(name).exists():
            curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
            self._openssl("genpkey", "-algorithm", "EC", *curve, "-out", str(self.key(name)))
            public = str(self.folder / f"{name}.pub")
            self._openssl("pkey", "-in", str(self.key(name)), "-pubout", "-out", public)

    def kubeconfig(self, name: str, server: str) -> str:
        """A kubeconfig that stands alone: the certificates are inside."""
        cluster = {"server": server, "certificate-authority-data": _base64(self.certificate("ca"))}
        user = {
            "client-certificate-data": _base64(self.certificate(name)),
            "client-key-data": _base64(self.key(name)),
        }
        context = {"cluster": "finetune", "user": name}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "finetune", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "finetune", "context": context}],
            "current-context": "finetune",
        }
        return yaml.safe_dump(document, sort_keys=False)

    def _request(self, name: str, subject: str, extensions: Sequence[str], signer: Sequence[str]) -> None:
        if self.certificate(name).exists():
            return
        settings = self.folder / "openssl.cnf"
        settings.write_text(_EMPTY)
        added = [word for extension in extensions for word in ("-addext", extension)]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        unfinished = self.certificate(name).with_suffix(".new")
        out = ["-keyout", str(self.key(name)), "-out", str(unfinished)]
        command = ["req", "-x509", "-new", *curve, "-config", str(settings), "-days", _DAYS, "-subj", subject]
        self._openssl(*command, *signer, *added, *out)
        unfinished.replace(self.certificate(name))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, umask=0o077)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all.

    A file that already says so stays untouched: kube-proxy ends when its configuration is written again.
    """
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    temporary.replace(path)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
