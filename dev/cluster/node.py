"""The one node: containerd, kubelet, kube-proxy and CoreDNS, in folders and on names of their own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.home import State
from dev.cluster.machine import cgroups
from dev.cluster.machine.host import CNI_PLUGINS
from dev.cluster.machine.network import DNS_ADDRESS, NODE_ADDRESS, POD_RANGE, plugin_settings
from dev.cluster.pki import Identity, Pki, write_private
from dev.cluster.process import Command

NODE_NAME = "finetune-node"
CLUSTER_DOMAIN = "cluster.local"

IDENTITIES = (
    Identity("controller-manager", "system:kube-controller-manager"),
    Identity("scheduler", "system:kube-scheduler"),
    Identity("node", f"system:node:{NODE_NAME}", "system:nodes"),
    Identity("kubelet", f"system:node:{NODE_NAME}", "system:nodes", hosts=(f"IP:{NODE_ADDRESS}",)),
    Identity("components", "finetune:components", hosts=(f"IP:{NODE_ADDRESS}",)),
    Identity("kube-proxy", "system:kube-proxy"),
    Identity("coredns", "finetune:coredns"),
    Identity("provisioner", "finetune:provisioner"),
)
"""Everyone who talks to the API server, beside the administrator."""


@dataclass(frozen=True)
class Node:
    """Writes the configuration of the node's processes and says how to run them."""

    state: State
    binaries: Path
    server: str
    pause: str

    @property
    def pki(self) -> Pki:
        """Where the certificates are."""
        return Pki(self.state.folder / "pki")

    def kubeconfig(self, name: str) -> Path:
        """The kubeconfig of one of IDENTITIES, written when it is asked for."""
        path = self.state.settings / f"{name}.kubeconfig"
        write_private(path, self.pki.kubeconfig(name, self.server))
        return path

    def write(self, name: str, content: str | Mapping[str, Any]) -> Path:
        """A configuration file; mappings become YAML."""
        path = self.state.settings / name
        write_private(path, content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    def controller_manager(self) -> Command:
        """kube-controller-manager; it signs service account tokens and gives pods the cluster's authority."""
        kubeconfig = self.kubeconfig("controller-manager")
        argv: list[str | Path] = [
            self.binaries / "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--service-account-private-key-file={self.pki.key('service-accounts')}",
            f"--root-ca-file={self.pki.certificate('ca')}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            *self._serving(),
        ]
        return Command("kube-controller-manager", argv, [kubeconfig])

    def scheduler(self) -> Command:
        """kube-scheduler."""
        kubeconfig = self.kubeconfig("scheduler")
        argv: list[str | Path] = [
            self.binaries / "kube-scheduler",
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            *self._serving(),
        ]
        return Command("kube-scheduler", argv, [kubeconfig])

    def _serving(self) -> list[str]:
        """Health and metrics on the node's address, under a certificate that `status` can check."""
        certificate, key = self.pki.certificate("components"), self.pki.key("components")
        tls = [f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"]
        return [f"--bind-address={NODE_ADDRESS}", "--profiling=false", *tls]

    def containerd(self) -> Command:
        """containerd with root, state and socket of our own."""
        (self.state.settings / "cni").mkdir(exist_ok=True)
        self.write("cni/10-finetune.conflist", plugin_settings(self.state.folder / "cni"))
        config = self.write("containerd.toml", containerd_settings(self.state, self.pause))
        return Command("containerd", ["containerd", "--config", config], [config])

    def kubelet(self) -> Command:
        """The kubelet, which trusts only the cluster's authority and asks the API server who may do what."""
        kubeconfig = self.kubeconfig("node")
        # The search domains of this machine are not the pods' business, and nothing is forwarded.
        resolver = self.write("resolv.conf", "")
        config = self.write("kubelet.yaml", kubelet_settings(self.state, self.pki, resolver))
        argv: list[str | Path] = [
            self.binaries / "kubelet",
            f"--kubeconfig={kubeconfig}",
            f"--config={config}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
            f"--root-dir={self.state.kubelet}",
        ]
        return Command("kubelet", argv, [kubeconfig, config])

    def proxy(self) -> Command:
        """kube-proxy with nftables."""
        kubeconfig = self.kubeconfig("kube-proxy")
        config = self.write("kube-proxy.yaml", proxy_settings(kubeconfig))
        return Command(
            "kube-proxy", [self.binaries / "kube-proxy", f"--config={config}"], [kubeconfig, config]
        )

    def dns(self) -> Command:
        """CoreDNS for the cluster's names only."""
        kubeconfig = self.kubeconfig("coredns")
        config = self.write("Corefile", corefile(kubeconfig))
        return Command("coredns", [self.binaries / "coredns", "-conf", config], [kubeconfig, config])


def containerd_settings(state: State, pause: str) -> str:
    """containerd's TOML (JSON strings and booleans are TOML too)."""
    runc = "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc"
    disabled = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
    quoted = {
        "root": str(state.containerd / "root"),
        "state": str(state.containerd / "state"),
        "disabled": [
            *disabled,
            "io.containerd.internal.v1.tracing",
            "io.containerd.tracing.processor.v1.otlp",
        ],
        "socket": str(state.socket),
        "opt": str(state.containerd / "opt"),
        "pause": pause,
        "plugins": str(CNI_PLUGINS),
        "networks": str(state.settings / "cni"),
        "runc_root": str(state.containerd / "runc"),
    }
    value = {name: json.dumps(found) for name, found in quoted.items()}
    # restrict_oom_score_adj: without it every sandbox fails where a lower score may not be set.
    return f"""version = 2
root = {value["root"]}
state = {value["state"]}
oom_score = 0
disabled_plugins = {value["disabled"]}
[grpc]
address = {value["socket"]}
[plugins.'io.containerd.internal.v1.opt']
path = {value["opt"]}
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = {value["pause"]}
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.'io.containerd.grpc.v1.cri'.cni]
bin_dir = {value["plugins"]}
conf_dir = {value["networks"]}
[{runc}]
runtime_type = "io.containerd.runc.v2"
[{runc}.options]
Root = {value["runc_root"]}
"""


def kubelet_settings(state: State, pki: Pki, resolver: Path) -> dict[str, Any]:
    """KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "healthzBindAddress": NODE_ADDRESS,
        "tlsCertFile": str(pki.certificate("kubelet")),
        "tlsPrivateKeyFile": str(pki.key("kubelet")),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.certificate("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{state.socket}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(resolver),
        "podLogsDir": str(state.folder / "pod-logs"),
        "volumePluginDir": str(state.kubelet / "volume-plugins"),
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        # A group of our own: another kubelet's pods on this machine are neither counted nor stopped.
        "cgroupRoot": f"/{cgroups.ROOT}",
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "failSwapOn": False,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        # What was pulled is our cache: images go only when the disk is nearly full.
        "imageGCHighThresholdPercent": 97,
        "imageGCLowThresholdPercent": 95,
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def proxy_settings(kubeconfig: Path) -> dict[str, Any]:
    """KubeProxyConfiguration; connection tracking limits are the machine's and stay as they are."""
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": POD_RANGE,
        "nodePortAddresses": [f"{NODE_ADDRESS}/32"],
        "bindAddress": NODE_ADDRESS,
        "healthzBindAddress": f"{NODE_ADDRESS}:10256",
        "metricsBindAddress": f"{NODE_ADDRESS}:10249",
        # Pods share a bridge, so an answer would go straight back and miss the translation of the Service's
        # address unless it has to return through this machine.
        "nftables": {"masqueradeAll": True},
        "conntrack": untouched,
    }


def corefile(kubeconfig: Path) -> str:
    """Services, headless pod names and nothing else; other names do not exist here."""
    return f"""{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
  bind {DNS_ADDRESS}
  errors
  ready {NODE_ADDRESS}:8181
  kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    ttl 5
  }}
}}
.:53 {{
  bind {DNS_ADDRESS}
  errors
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""
