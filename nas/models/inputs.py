"""Check what a caller passes to a classifier, and bring it into the form that the model reads.

Where values cannot be read (in a traced model), only shapes are checked.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.models.encoders.tracing import have_values


def check_options(options: Mapping[str, Any]) -> None:
    """Raise an error for arguments of other models of transformers that this one cannot honor.

    Args:
        options: The arguments by name; those that are None or false ask for nothing.
    """
    reasons = {
        "output_attentions": "the attention of the two encoders is never computed as a whole",
        "output_hidden_states": "the model has two encoders; register forward hooks on their layers, which are in "
        "image_encoder and text_encoder",
        "inputs_embeds": "embeddings are part of the model; pass input_ids",
        "position_ids": "positions follow from the attention_mask",
        "head_mask": "heads cannot be hidden",
    }
    for name, value in options.items():
        if name not in reasons:
            raise TypeError(
                f"{name}: unknown argument; expected pixel_values, input_ids, attention_mask, token_type_ids, labels "
                "or return_dict"
            )
        if value is not None and value is not False:
            raise ValueError(f"{name}: not supported; {reasons[name]}")


def check_pixels(pixels: Tensor | None) -> Tensor:
    """Return pixel values (B, 3, height, width) after checking them."""
    if pixels is None:
        raise ValueError("pixel_values: missing; expected images from the model's image processor")
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixel_values: wrong shape; expected (batch, 3, height, width), got {tuple(pixels.shape)}")
    if not pixels.is_floating_point():
        raise ValueError(
            f"pixel_values: expected normalized floating-point values from the image processor, got {pixels.dtype}"
        )
    return pixels


def check_texts(
    ids: Tensor | None, mask: Tensor | None, token_types: Tensor | None, *, max_tokens: int, vocabulary: int
) -> tuple[Tensor, Tensor | None]:
    """Return token ids and the mask, true where there is a token, of texts that start at the first position.

    Args:
        ids: Token ids, (B, T).
        mask: (B, T), 1 or true where there is a token; None where nothing is padded.
        token_types: Segment of each token, (B, T), only zeros; or None.
        max_tokens: The number of positions of the text encoder.
        vocabulary: The number of token ids.
    """
    if ids is None:
        raise ValueError("input_ids: missing; expected token ids from the model's tokenizer")
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"input_ids: wrong shape; expected (batch, tokens) with at least one token, got {tuple(ids.shape)}"
        )
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"input_ids: expected integers, got {ids.dtype}")
    for name, tensor in (("attention_mask", mask), ("token_type_ids", token_types)):
        if tensor is not None and tensor.shape != ids.shape:
            raise ValueError(
                f"{name}: wrong shape; expected that of input_ids, {tuple(ids.shape)}, got {tuple(tensor.shape)}"
            )
    if ids.shape[1] > max_tokens:
        raise ValueError(
            f"input_ids: too many tokens; expected at most {max_tokens} per text, got {ids.shape[1]}; truncate texts "
            "in the tokenizer"
        )
    _check_token_types(token_types)
    readable = have_values(ids, mask)
    if readable:
        _check_values(ids, mask, vocabulary)
    if mask is None:
        return ids, None
    mask = mask.to(torch.bool)
    if not readable or not bool(mask[:, 0].all()):
        ids, mask = _shifted_to_start(ids, mask)
    return ids, mask


def _check_token_types(token_types: Tensor | None) -> None:
    if token_types is None:
        return
    if not have_values(token_types):
        raise ValueError(
            "token_type_ids: not supported in a traced model, where they cannot be checked; leave them out"
        )
    if bool(token_types.any()):
        raise ValueError(
            "token_type_ids: expected only zeros, since the model was trained on single texts, got "
            f"{int(token_types.flatten()[token_types.flatten().nonzero()[0, 0]])}"
        )


def _check_values(ids: Tensor, mask: Tensor | None, vocabulary: int) -> None:
    outside = ((ids < 0) | (ids >= vocabulary)).nonzero()
    if len(outside):
        row, column = outside[0].tolist()
        raise ValueError(
            f"input_ids: unknown token id in row {row}, position {column}; expected 0 to {vocabulary - 1}, got "
            f"{int(ids[row, column])}"
        )
    if mask is None:
        return
    other = ((mask != 0) & (mask != 1)).nonzero()
    if len(other):
        row, column = other[0].tolist()
        raise ValueError(
            f"attention_mask: wrong value in row {row}, position {column}; expected 1 for a token and 0 for padding, "
            f"got {mask[row, column].item()}"
        )
    empty = (mask == 0).all(dim=1).nonzero()
    if len(empty):
        raise ValueError(
            f"attention_mask: no token in row {int(empty[0, 0])}; expected at least one 1 in each row (tokenizers give "
            "an empty text its special tokens)"
        )


def _shifted_to_start(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding before a text behind it: its tokens then have the positions that they had in training."""
    leading = mask.to(torch.int64).argmax(dim=1, keepdim=True)  # the first of the largest
    length = mask.shape[1]
    places = torch.arange(length, device=mask.device) + leading
    places = torch.where(places < length, places, places - length)  # a remainder, which not every exporter knows
    return ids.gather(1, places), mask.gather(1, places)


def requested_outputs(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the additional outputs that a configuration requests, as arguments by name."""
    return {name: bool(getattr(config, name)) for name in ("output_attentions", "output_hidden_states")}


def refuse_onnx_export() -> None:
    """Raise an error while TorchScript's exporter to ONNX, which is deprecated, traces the model."""
    if torch.onnx.is_in_onnx_export() and torch._C._get_tracing_state() is not None:
        raise RuntimeError(
            "export to ONNX by TorchScript is not supported; expected torch.onnx.export(..., dynamo=True), or "
            "export --format onnx"
        )
