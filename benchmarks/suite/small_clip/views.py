"""Random views of pictures, and the rows of the frozen image layers for a few views of every picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModel

from benchmarks.suite.small_clip.pairs import Note
from demo.pretrain_image_encoder import as_images, crop
from nas.common.files import write_atomically

_BLOCK = 64
_NOTE_EVERY = 32
"""Blocks between two lines of progress; the finished blocks are written to disk as often."""


def random_views(pictures: NDArray[np.uint8], size: int, rng: np.random.Generator, *, whole: bool) -> Tensor:
    """Return pixel values of random parts of pictures, mirrored and with changed colours, (B, 3, size, size).

    Args:
        pictures: RGB on white, (B, 2 size, 2 size, 3) bytes.
        size: The side of the views.
        rng: The random generator.
        whole: Whether to return the pictures as they are instead.
    """
    count = len(pictures)
    half = np.ones(count) if whole else np.sqrt(rng.uniform(0.5, 1.0, count))
    centre = rng.uniform(-1, 1, (count, 2)) * (1 - half)[:, None]
    boxes = torch.from_numpy(np.concatenate([centre, half[:, None]], axis=1).astype(np.float32))
    flip = np.ones(count) if whole else rng.choice([-1.0, 1.0], count)
    gain = np.ones((count, 3, 1, 1)) if whole else rng.uniform(0.8, 1.2, (count, 3, 1, 1))
    views = crop(as_images(pictures), boxes, torch.from_numpy(flip.astype(np.float32)), 2 * size)
    views = F.avg_pool2d(views, 2)
    views = 1 - ((1 - views) * torch.from_numpy(gain.astype(np.float32))).clamp(0, 1)  # white stays white
    return (views - 0.5) / 0.5


def lower_rows(vision: CLIPVisionModel, pixels: Tensor, layers: int) -> Tensor:
    """Return the rows after the first layers, (B, 1 + patches, D).

    Args:
        vision: The image side.
        pixels: Pixel values, (B, 3, H, H).
        layers: The number of layers.
    """
    rows: Tensor = vision.pre_layrnorm(vision.embeddings(pixels))
    for layer in vision.encoder.layers[:layers]:
        rows = layer(rows, None)
    return rows


def upper_readout(vision: CLIPVisionModel, rows: Tensor, layers: int) -> Tensor:
    """Return the readout of the rows after the first layers, (B, D).

    Args:
        vision: The image side.
        rows: What `lower_rows` returns, or some of its patches, CLS first.
        layers: The number of layers that the rows have passed.
    """
    for layer in vision.encoder.layers[layers:]:
        rows = layer(rows, None)
    readout: Tensor = vision.post_layernorm(rows[:, 0])
    return readout


@torch.inference_mode()
def cached_rows(
    vision: CLIPVisionModel,
    pictures: NDArray[np.uint8],
    layers: int,
    views: int,
    path: Path,
    note: Note,
    seed: int,
) -> NDArray[np.float16]:
    """Return the rows after the frozen layers, (views, N, 1 + patches, D), as a memory map; the first view is whole.

    They are computed once. A killed computation resumes after the last block that was written.

    Args:
        vision: The image side; its first layers are not trained.
        pictures: The pictures.
        layers: The number of frozen layers.
        views: The number of views of each picture.
        path: The file.
        note: Receives lines of progress.
        seed: The seed of the views.
    """
    config: Any = vision.config
    shape = (views, len(pictures), 1 + (config.image_size // config.patch_size) ** 2, config.hidden_size)
    if not path.exists():
        part, done = path.with_suffix(".part.npy"), path.with_suffix(".done")
        finished = int(done.read_text()) if done.exists() and part.exists() else 0
        rows: Any = np.lib.format.open_memmap(part, mode="r+" if finished else "w+", dtype=np.float16, shape=shape)
        blocks = [(view, start) for view in range(views) for start in range(0, len(pictures), _BLOCK)]
        for number, (view, start) in enumerate(blocks[finished:], start=finished + 1):
            block = pictures[start : start + _BLOCK]
            pixels = random_views(block, config.image_size, np.random.default_rng((seed, number)), whole=view == 0)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = lower_rows(vision, pixels, layers)
            rows[view, start : start + _BLOCK] = found.half().numpy()
            if number % _NOTE_EVERY == 0 or number == len(blocks):
                rows.flush()
                write_atomically(done, str(number).encode())
                note(f"rows of the frozen layers: block {number} of {len(blocks)}")
        part.rename(path)
    kept: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return kept


def keep_patches(rows: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Return CLS and a random part of the patches of each picture, (B, 1 + count, D)."""
    order = rng.random((len(rows), rows.shape[1] - 1)).argsort(axis=1)[:, :count] + 1
    index = torch.from_numpy(np.concatenate([np.zeros((len(rows), 1), dtype=order.dtype), order], axis=1))
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[2]))


def picked(rows: NDArray[np.float16], view: NDArray[np.int64], index: Sequence[int] | NDArray[np.int64]) -> Tensor:
    """Return one cached view of each of some pictures in float32, (B, 1 + patches, D)."""
    return torch.from_numpy(np.asarray(rows[view, index], dtype=np.float32))
