"""Devices, kernel settings and addresses of the cluster's own, all of which `down` takes back."""

import json
import subprocess
from pathlib import Path

NODE_DEVICE = "ft0"
NODE_ADDRESS = "10.245.0.1"
POD_DEVICE = "ftpods0"
POD_RANGE = "10.244.0.0/24"
DNS_ADDRESS = NODE_ADDRESS
_PROXY_TABLE = "kube-proxy"
KERNEL_SETTINGS = {
    # Set here and not left to the kubelet and the network plugin, so that `down` can restore them.
    "net/ipv4/ip_forward": "1",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_SYSCTL = Path("/proc/sys")


def raise_network(before: Path) -> None:
    """Make the node's device and the kernel settings; `before` keeps what the settings were."""
    _keep_settings(before)
    for name, value in KERNEL_SETTINGS.items():
        if read_setting(name) not in (None, value):
            (_SYSCTL / name).write_text(value)
    if not Path(f"/sys/class/net/{NODE_DEVICE}").exists():
        _ip("link", "add", NODE_DEVICE, "type", "bridge")
    _ip("addr", "replace", f"{NODE_ADDRESS}/32", "dev", NODE_DEVICE)
    _ip("link", "set", NODE_DEVICE, "up")


def lower_network(before: Path) -> None:
    """Remove the devices and kube-proxy's tables, and restore the kernel settings."""
    for device in (POD_DEVICE, NODE_DEVICE):
        if Path(f"/sys/class/net/{device}").exists():
            _ip("link", "delete", device)
    for family in ("ip", "ip6"):
        subprocess.run(["nft", "delete", "table", family, _PROXY_TABLE], capture_output=True, check=False)
    if before.exists():
        for name, value in json.loads(before.read_text()).items():
            if read_setting(name) != value:
                (_SYSCTL / name).write_text(value)
        before.unlink()


def read_setting(name: str) -> str | None:
    """A kernel setting's value, None when this kernel does not have it."""
    path = _SYSCTL / name
    return path.read_text().strip() if path.exists() else None


def plugin_settings(leases: Path) -> str:
    """The CNI configuration: one bridge, addresses handed out from files under `leases`."""
    addresses = {
        "type": "host-local",
        "dataDir": str(leases),
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": POD_DEVICE, "isGateway": True, "ipMasq": False, "ipam": addresses}
    return json.dumps({"cniVersion": "0.4.0", "name": "finetune-pods", "plugins": [bridge]}, indent=1)


def _keep_settings(before: Path) -> None:
    """Only the first start sees the machine's own values; a reboot brings them back by itself."""
    if not before.exists():
        before.parent.mkdir(parents=True, exist_ok=True)
        found = {name: read_setting(name) for name in KERNEL_SETTINGS}
        before.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
