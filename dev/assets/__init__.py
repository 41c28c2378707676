"""A real model and real data, small enough for this machine, from packages pinned by hash."""

from dev.assets.reviews import drug_reviews
from dev.assets.smollm2 import base_model

__all__ = ["base_model", "drug_reviews"]
