"""The shape of a model on the Hub, before it is fetched."""

from pathlib import Path

from finetune_trainer.base.headers import Tensor
from finetune_trainer.planning.headers import verify
from finetune_trainer.planning.shape import ModelShape, read_config, shape_of
from finetune_trainer.sources.hub import describe_base


def shape_of_source(source: str, revision: str, scratch: Path) -> ModelShape:
    """The shape of `hf://org/name` at a pinned revision, checked against the headers of its weights.

    UserError for a model that is not understood, SourceUnavailableError when the Hub cannot be reached; its
    config.json is left in `scratch`.
    """
    tensors = {name: Tensor(*entry) for name, entry in describe_base(source, revision, scratch).items()}
    shape = shape_of(read_config(scratch))
    verify(shape, tensors)
    return shape
