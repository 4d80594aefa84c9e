"""Frozen transformers as stacks of layers, one file per block family."""

from nas.common.vml_workaround import resolve_vector_functions
from nas.models.encoders.base import Encoder, EncoderLayer, KeysValues, padding_bias
from nas.models.encoders.checkpoints import (
    build_encoder,
    load_config,
    load_encoder,
    load_image_processor,
    load_tokenizer,
    resolve_checkpoint,
    trainable_copy,
    weights_digest,
)
from nas.models.encoders.partial_checkpoint import load_tail, save_tail, tail_weights

__all__ = [
    "Encoder",
    "EncoderLayer",
    "KeysValues",
    "build_encoder",
    "load_config",
    "load_encoder",
    "load_image_processor",
    "load_tail",
    "load_tokenizer",
    "padding_bias",
    "resolve_checkpoint",
    "save_tail",
    "tail_weights",
    "trainable_copy",
    "weights_digest",
]

# Before anything of the product computes with several threads: all of it imports encoders.
resolve_vector_functions()
