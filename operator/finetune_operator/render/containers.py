"""The containers of stages and servers: image, environment and privileges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_operator.contracts.settings import Settings
from finetune_operator.render.security import container_security

Container = dict[str, Any]

# Of an image only /tmp can be written, which is a volume. A user without a name in the image, as OpenShift
# chooses it, needs one in the environment: torch and getpass look it up.
_HOME = {"HOME": "/tmp", "USER": "finetune"}  # noqa: S108


def literal(text: str) -> str:
    """A text in which Kubernetes replaces no `$(NAME)`."""
    return text.replace("$", "$$")


def container(
    name: str, image: str, settings: Settings, env: Mapping[str, str], capabilities: Sequence[str] = ()
) -> Container:
    """A container; `env` goes over the administrator's variables, each name once."""
    variables = {**settings.env, **_HOME, **env}
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": container_security(capabilities),
    }
