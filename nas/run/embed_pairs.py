"""Embed pictures or texts with an exported model for retrieval."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from nas.common.devices import computing_in
from nas.common.errors import ExportError
from nas.data.text_check import check_given_texts
from nas.run.exported_model import ExportedModel, Picture
from nas.run.prediction.batches import BATCH_SIZE

_Entry = TypeVar("_Entry")


def check_retrieval(exported: ExportedModel) -> None:
    """Check that a model is one for retrieval.

    Raises:
        ExportError: If it is a classifier.
    """
    if not exported.is_retrieval:
        raise ExportError("embed_images, embed_texts: the model is a classifier; expected one for retrieval")


@torch.inference_mode()
def embed_images(exported: ExportedModel, images: Sequence[Picture]) -> Tensor:
    """Return the embeddings of pictures, of unit length, float32, (N, E).

    Args:
        exported: The model.
        images: The pictures, at least one.

    Raises:
        DataError: If a picture cannot be read or used.
        ExportError: If the model is a classifier.
    """
    check_retrieval(exported)
    found = []
    for batch in _batches(list(enumerate(images))):
        opened = [exported.open_picture(image, f"images[{index}]") for index, image in batch]
        pixels = exported.preprocessor.pixel_values(opened)
        with computing_in(exported.precision, exported.model.device):
            output = exported.model(pixel_values=pixels.to(exported.model.device), return_dict=True)
        found.append(output.image_embeds.float().cpu())
    return torch.cat(found)


@torch.inference_mode()
def embed_texts(exported: ExportedModel, texts: Sequence[str]) -> Tensor:
    """Return the embeddings of texts, of unit length, float32, (N, E).

    Args:
        exported: The model.
        texts: The texts, at least one.

    Raises:
        DataError: If a text has no token.
        ExportError: If the model is a classifier.
    """
    check_retrieval(exported)
    check_given_texts(texts, exported.preprocessor)
    found = []
    for batch in _batches(list(texts)):
        ids, mask = exported.preprocessor.pad(exported.preprocessor.token_ids(batch))
        device = exported.model.device
        with computing_in(exported.precision, device):
            output = exported.model(input_ids=ids.to(device), attention_mask=mask.to(device), return_dict=True)
        found.append(output.text_embeds.float().cpu())
    return torch.cat(found)


def _batches(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    stream = iter(entries)
    while batch := list(itertools.islice(stream, BATCH_SIZE)):
        yield batch
