"""What Pod Security `restricted` asks of every pod and container that the operator renders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SYSCTLS_OF_FOREIGN_CODE = [{"name": "kernel.shm_rmid_forced", "value": "1"}]
"""System V shared memory ends with the processes that use it, so no container of the pod leaves it to the
next. One of the parameters that Kubernetes holds to be safe and `restricted` admits.
"""


def pod_security(user: int | None) -> dict[str, Any]:
    """The pod's securityContext: an unprivileged user whose group owns the volumes.

    Without a user the cluster chooses user and group, as OpenShift does.
    """
    fixed = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {
        "runAsNonRoot": True,
        **fixed,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(capabilities: Sequence[str] = ()) -> dict[str, Any]:
    """The container's securityContext: no privileges but these, nothing of the image can be written."""
    added = {"add": list(capabilities)} if capabilities else {}
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **added},
    }
