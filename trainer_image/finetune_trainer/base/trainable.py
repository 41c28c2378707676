"""Which bases cannot be trained, by their config.json and the headers of their weights."""

from collections.abc import Mapping

from finetune_trainer.base.config import BaseConfig, auto_class
from finetune_trainer.base.engine import refuse_computed_otherwise
from finetune_trainer.base.headers import Headers, loaded_tensors, modules_of
from finetune_trainer.base.targets import Decoder, Shape, decoder_among, layer_counts, stored_head
from finetune_trainer.errors import UserError

_FLOATS = {"F64", "F32", "F16", "BF16"}


def refuse_untrainable(base: BaseConfig, headers: Headers) -> None:
    """UserError for a model that cannot be loaded or trained, whatever the method.

    transformers cannot load it, vLLM computes another model of it, its weights have fewer than 16 bits, or
    they are not those of its config.
    """
    auto_class(base)
    refuse_computed_otherwise(base.architecture)
    stored = {tensor.dtype for tensor in headers.values()} - _FLOATS
    if stored or base.quantised:
        kind = ", ".join(sorted(stored)) or base.quantised
        text = f"The base model's weights are quantised ({kind})"
        raise UserError(f"{text}; name the model in 16 bits, which method QLoRA quantises itself.")
    _refuse_other_weights(base, modules_of(loaded_tensors(headers)))


def refuse_transposed(base: BaseConfig, headers: Headers) -> None:
    """Refuse an adapter on weights that are (inputs, outputs), told by their biases: GPT-2's Conv1D."""
    for name, shape in modules_of(headers).items():
        bias = headers.get(f"{name}.bias")
        if bias and len(shape) == 2 and shape[0] != shape[1] == bias.parameters:
            text = f"The base model ({base.model_type}) stores the weight of {name} as (inputs, outputs)"
            raise UserError(
                f"{text}, where no adapter can be trained; use method Full or another base model."
            )


def _refuse_other_weights(base: BaseConfig, modules: Mapping[str, Shape]) -> None:
    """Refuse weights that the config does not describe: they would not be loaded, or not be used."""
    if base.embedding_width is None or base.layers is None:
        return
    stored = max(layer_counts(modules).values(), default=0)
    if 0 < stored < base.layers:
        _refuse("num_hidden_layers", str(base.layers), str(stored))
    if decoder := decoder_among(modules, base):
        _refuse_other_decoder(base, decoder, modules)


def _refuse_other_decoder(base: BaseConfig, decoder: Decoder, modules: Mapping[str, Shape]) -> None:
    rows, layers = modules[decoder.embedding][0], base.require("layers")
    if base.vocab is not None and rows != base.vocab:
        _refuse("vocab_size", str(base.vocab), f"{rows} rows of {decoder.embedding}")
    found = {decoder.layer_of(name) for name in modules} - {None}
    if len(found) > layers + base.further_layers:
        _refuse("num_hidden_layers", str(layers), str(len(found)))
    if not base.tied and not stored_head(modules, decoder):
        _refuse("tie_word_embeddings", "false", "no output head")


def _refuse(field: str, config: str, weights: str) -> None:
    text = f"The base model's config.json and its weights differ: {field} is {config} in the one"
    raise UserError(f"{text} and {weights} in the other; fetch both from the same revision.")
