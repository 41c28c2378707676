"""The shipped images, built on this machine without Docker and kept in a registry of its own."""

from dev.images.build import build_all
from dev.images.registry import start as start_registry
from dev.images.registry import stop as stop_registry

__all__ = ["build_all", "start_registry", "stop_registry"]
