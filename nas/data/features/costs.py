"""What each way to store features costs: bytes on disk, seconds to build, seconds a step."""

import time
from collections.abc import Callable, Sequence

import torch

from nas.common.devices import synchronize
from nas.common.units import format_bytes, format_seconds
from nas.data.features.inputs import BATCH_SIZE, FeatureSources
from nas.data.features.plan import ATTENTION, EVERY_LAYER, NOTHING, SMALLEST_LAYER, FeaturePlan, ModalityPlan
from nas.data.features.threads import BuildThreads
from nas.models.encoders.base import Encoder

_TOKENS = 512
"""The number of tokens with which a layer is timed."""


def describe_costs(
    plans: Sequence[FeaturePlan],
    chosen: FeaturePlan,
    sources: FeatureSources,
    threads: BuildThreads,
    image_seconds: float,
) -> str | None:
    """Return one line for the user; None where every entry layer is the lowest, and stored.

    The seconds are those of a layer for a few tokens, timed now on the device that builds. A step may have to recompute
    the layers from the lowest to the highest entry layer in a batch of 32 samples, or all below that one after decoding
    the images, for which the seconds of one thread are added.

    Args:
        plans: The possible plans.
        chosen: The plan that is built.
        sources: The encoders, on the device that computes.
        threads: The threads that build.
        image_seconds: The seconds in which one thread decodes and processes an image.
    """
    modalities = chosen.modalities
    if chosen.tier != NOTHING and all(len(part.layers) <= 1 for part in modalities):
        return None
    encoders = (sources.image_encoder, sources.text_encoder)
    timed = [seconds_per_token(encoder, sources.device) for encoder in encoders]
    build_seconds = sum(
        seconds * _tokens(part) * part.num_layers / threads.count
        for seconds, part in zip(timed, modalities, strict=True)
    )

    def step_seconds(lowest: Callable[[ModalityPlan], int]) -> float:
        return sum(
            seconds * BATCH_SIZE * _tokens(part) / max(_inputs(part), 1) * (max(part.layers[-1], 0) - lowest(part))
            for seconds, part in zip(timed, modalities, strict=True)
            if part.layers
        )

    from_lowest = step_seconds(lambda part: max(part.layers[0], 0))
    from_images = step_seconds(lambda part: 0) + (BATCH_SIZE * image_seconds if modalities[0].layers else 0.0)
    sizes = {plan.tier: plan.size_bytes for plan in plans}
    every_layer = format_bytes(sizes[EVERY_LAYER])
    if ATTENTION in sizes:
        every_layer += f" ({format_bytes(sizes[ATTENTION])} with features.attention)"
    name = {SMALLEST_LAYER: "the lowest layer only", NOTHING: "no layer"}.get(chosen.tier, "each layer")
    return (
        f"Encoder outputs take about {format_seconds(build_seconds)} to compute, once, and are cached for {name}. "
        f"Choices (features.storage): each layer where fusion may start, {every_layer}; the "
        f"lowest of them only, {format_bytes(sizes[SMALLEST_LAYER])}, and a training step takes up to "
        f"{from_lowest:.2g} s longer; no layer, {format_bytes(sizes[NOTHING])}, and up to {from_images:.2g} s longer"
    )


def _inputs(part: ModalityPlan) -> int:
    """Return the number of images, those of views included, or of texts."""
    if part.name == "image":
        return sum(shape[0] for shape in part.row_shapes.values())
    return sum(part.input_counts.values())


def _tokens(part: ModalityPlan) -> int:
    """Return the number of tokens of all images or texts, those of views included."""
    return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in part.row_shapes.values())


@torch.inference_mode()
def seconds_per_token(encoder: Encoder, device: torch.device) -> float:
    """Return the seconds that one layer of an encoder takes for a token, in one thread on the CPU.

    Args:
        encoder: The encoder.
        device: The device on which it is.
    """
    rows = torch.zeros(_TOKENS // 64, 64, encoder.hidden_size, device=device)
    bias = encoder.data_bias(None, 64, rows.dtype)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        encoder.run(rows, bias, start=0, stop=1)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / _TOKENS
