"""etcd and kube-apiserver: the same processes for the embedded cluster and for tests of the API."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dev.cluster.pki import Identity, Pki, write_private
from dev.cluster.process import Command, Supervisor
from dev.cluster.readiness import answers, client_context, wait_until

SERVICE_RANGE = "10.96.0.0/16"  # the plays of the fault report keep more than a thousand Services
KUBERNETES_SERVICE = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
STRONG_TLS = "VersionTLS12"


@dataclass(frozen=True)
class Place:
    """Where the two processes listen and keep their files."""

    folder: Path
    binaries: Path
    address: str = "127.0.0.1"
    port: int = 16443
    etcd_port: int = 12379
    etcd_peer_port: int = 12380
    tied: bool = False
    durable: bool = True
    """Whether etcd survives a power cut; a test's does not need to."""

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:{self.port}"

    @property
    def pki(self) -> Pki:
        """Both authorities and all certificates."""
        return Pki(self.folder / "pki")


def server_identities(address: str) -> tuple[Identity, ...]:
    """Certificates of etcd, of kube-apiserver and of the administrator."""
    names = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    addresses = dict.fromkeys([f"IP:{address}", "IP:127.0.0.1", f"IP:{KUBERNETES_SERVICE}"])
    hosts = (*(f"DNS:{name}" for name in names), "DNS:localhost", *addresses)
    return (
        Identity("etcd", "etcd", authority="etcd-ca", hosts=("IP:127.0.0.1",)),
        Identity("etcd-client", "kube-apiserver", authority="etcd-ca"),
        Identity("apiserver", "kube-apiserver", hosts=hosts),
        Identity("kubelet-client", "finetune:kubelet-client"),
        Identity("admin", "finetune-admin", "system:masters"),
    )


def make_certificates(place: Place, more: Sequence[Identity] = ()) -> None:
    """Issue what is not there yet; the folder's own authorities sign."""
    place.pki.authority("ca")
    place.pki.authority("etcd-ca")
    place.pki.signing_key("service-accounts")
    for identity in (*server_identities(place.address), *more):
        place.pki.issue(identity)


def etcd_command(place: Place) -> Command:
    """etcd on the loopback address, reachable only with a certificate of its own authority."""
    pki, client = place.pki, f"https://127.0.0.1:{place.etcd_port}"
    peer = f"http://127.0.0.1:{place.etcd_peer_port}"
    argv: list[str | Path] = [
        place.binaries / "etcd",
        f"--data-dir={place.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={pki.certificate('etcd')}",
        f"--key-file={pki.key('etcd')}",
        f"--trusted-ca-file={pki.certificate('etcd-ca')}",
        "--client-cert-auth",
        "--log-level=warn",
    ]
    if not place.durable:
        argv.append("--unsafe-no-fsync")
    return Command("etcd", argv, [pki.certificate("etcd")], tied=place.tied)


def apiserver_command(place: Place, more: Sequence[str] = ()) -> Command:
    """kube-apiserver with RBAC and Node authorization; nobody is anonymous."""
    pki = place.pki
    argv: list[str | Path] = [
        place.binaries / "kube-apiserver",
        f"--etcd-servers=https://127.0.0.1:{place.etcd_port}",
        f"--etcd-cafile={pki.certificate('etcd-ca')}",
        f"--etcd-certfile={pki.certificate('etcd-client')}",
        f"--etcd-keyfile={pki.key('etcd-client')}",
        f"--bind-address={place.address}",
        f"--advertise-address={place.address}",
        f"--secure-port={place.port}",
        f"--tls-cert-file={pki.certificate('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
        f"--tls-min-version={STRONG_TLS}",
        f"--client-ca-file={pki.certificate('ca')}",
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={pki.folder / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={pki.key('service-accounts')}",
        f"--kubelet-client-certificate={pki.certificate('kubelet-client')}",
        f"--kubelet-client-key={pki.key('kubelet-client')}",
        f"--kubelet-certificate-authority={pki.certificate('ca')}",
        "--kubelet-preferred-address-types=InternalIP",
        # An address of the loopback device may not be the endpoint of the Service `kubernetes`.
        f"--endpoint-reconciler-type={'none' if place.address.startswith('127.') else 'lease'}",
        "--profiling=false",
        *more,
    ]
    return Command("kube-apiserver", argv, [pki.certificate("apiserver")], tied=place.tied)


def start(place: Place, supervisor: Supervisor, more: Sequence[str] = (), seconds: float = 90) -> None:
    """Start both processes and wait until the API server says that it is ready."""
    supervisor.start(etcd_command(place))
    client = client_context(place.pki, "etcd-client", place.pki.certificate("etcd-ca"))
    health = f"https://127.0.0.1:{place.etcd_port}/health"
    wait_until(lambda: answers(health, client), supervisor, "etcd", seconds)
    supervisor.start(apiserver_command(place, more))
    admin = client_context(place.pki, "admin")
    wait_until(lambda: answers(f"{place.url}/readyz", admin), supervisor, "kube-apiserver", seconds)


class ApiServer:
    """etcd and kube-apiserver on free ports in a folder of their own, gone with the `with` block."""

    def __init__(self, folder: Path, binaries: Path, more: Sequence[str] = ()) -> None:
        """`binaries` is what binaries.ensure(["kube-apiserver"]) returned, `more` are extra flags."""
        port, etcd_port, peer_port = free_ports(3)
        self.place = Place(
            folder,
            binaries,
            port=port,
            etcd_port=etcd_port,
            etcd_peer_port=peer_port,
            tied=True,
            durable=False,
        )
        self.kubeconfig = folder / "admin.kubeconfig"
        self.url = self.place.url
        self._more = more
        self._supervisor = Supervisor(folder)

    def __enter__(self) -> "ApiServer":
        """Ready to answer; ClusterError with the end of the log when it does not get there."""
        make_certificates(self.place)
        write_private(self.kubeconfig, self.place.pki.kubeconfig("admin", self.place.url))
        try:
            start(self.place, self._supervisor, self._more)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop both processes."""
        self.stop()

    def stop(self) -> None:
        """Stop both processes; harmless when they are already gone."""
        self._supervisor.stop(["kube-apiserver"], grace=5)
        self._supervisor.stop(["etcd"], grace=5)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
