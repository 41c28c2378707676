"""Which files of a base model's folder belong to it."""

from finetune_trainer.fingerprint import TEXT_FILES, is_weight_file

# The engine reads a multimodal model's processors even when it is asked about text only.
PROCESSOR_FILES = (
    "image_processor_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
# Says under which licence the model may be used.
CARD = "README.md"
# How a model is used: configuration, tokenizer, templates, processors
DESCRIPTION_FILES = TEXT_FILES + PROCESSOR_FILES


def is_description(name: str) -> bool:
    """Whether a file says how the model is used."""
    return name in DESCRIPTION_FILES


def is_weight(name: str) -> bool:
    """Whether a file of the top folder holds weights, or says which file holds what."""
    return "/" not in name and (is_weight_file(name) or name.endswith(".safetensors.index.json"))
