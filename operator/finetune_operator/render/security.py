"""What Pod Security `restricted` asks of every pod and container that the operator renders."""

from __future__ import annotations

from typing import Any

RUN_AS = 10001  # the user of the images


def pod_security() -> dict[str, Any]:
    """The pod's securityContext: one unprivileged user whose group owns the volumes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": RUN_AS,
        "runAsGroup": RUN_AS,
        "fsGroup": RUN_AS,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """The container's securityContext: no privileges, nothing of the image can be written."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
