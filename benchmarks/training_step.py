"""Compare a training step of PMF on the fast path with the straightforward one, on the same weights and batch.

A step is forward pass, loss, backward pass and optimizer. Steps of both sides alternate in one run; ratios are medians
over pairs. `speed_ratio` reads the stored tokens z and t; `stored_speed_ratio` also reads the stored attention of these
tokens to each other in the first fusing layer.

Two ratios compare the fast path with a lower bound, the time of the necessary operations. `floor_ratio` assumes the
rate of float32 matrix products of torch (`linear`, as the straightforward side uses it); `fastest_floor_ratio` assumes
the fastest available product, which on some processors is oneDNN's and more than twice as fast. A `floor_ratio` below 1
means that the fast path uses a faster product than `linear`.

Run: python -m benchmarks.training_step [--size demo|base|large] [--batch N] [--precision float32|bfloat16]
         [--device cpu|cuda] [--threads N] [--json FILE] [--quick]
     python -m benchmarks.training_step --count [--size base|large] [--batch N]

The second prints the operators of a step on the accelerator of this machine, from shapes alone.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.models import DEMO, build_pmf, demo_encoders, random_encoders
from benchmarks.operator_counts import count_table
from benchmarks.step_operations import necessary_operations, product_rates, seconds_of
from benchmarks.straightforward import StraightforwardPMF, frozen_parameters
from nas.common.devices import CPU, computing_in, device_name, device_of, has_fused_updates
from nas.common.precision import PRECISIONS, Precision
from nas.common.units import format_bytes
from nas.config.load import load_config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.memory.measurement import keep_freed_memory
from nas.memory.tracker import PeakTracker
from nas.models.fusion.base import Features, features_of, sizes_of
from nas.models.fusion.data_attention import data_attention
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.run.tables import text_table
from nas.training.batches import BatchSchedule


@dataclass(frozen=True)
class Case:
    """A model and a raw batch.

    Args:
        model: The PMF model.
        pixel_values: The images, (B, 3, height, width).
        input_ids: The token ids, (B, T).
        text_mask: The mask of real tokens, (B, T); None if no text is padded.
        labels: The classes, (B,).
    """

    model: PMF
    pixel_values: Tensor
    input_ids: Tensor
    text_mask: Tensor | None
    labels: Tensor


def random_case(size: str, batch: int, device: torch.device) -> Case:
    """Build random weights and inputs: two fusing layers, all M = 4, h half the hidden size, 128 text tokens."""
    image, text = (encoder.to(device) for encoder in random_encoders(size))
    architecture = PMFArchitecture.default(sizes_of(image, text))
    # The seed is chosen so that rounding cannot flip a ReLU of a mapping, which would change the gradient: at base size
    # and batch 8, all inputs of these units are at least 2.9e-5 from zero; with seed 0, one is closer than 2e-6.
    model = build_pmf((image, text), architecture, num_classes=101, seed=7)
    pixels, ids = torch.randn(batch, 3, 224, 224), torch.randint(1000, 30000, (batch, 128))
    return Case(model.to(device), pixels.to(device), ids.to(device), None, torch.randint(101, (batch,)).to(device))


def demo_case(batch: int) -> Case:
    """Build the default PMF model of the demo with two fusing layers, and load the first training batch."""
    config = load_config(DEMO)
    samples = read_dataset(config.data, ("train",)).splits["train"]
    chosen = BatchSchedule(len(samples), batch, seed=0).indices(0)
    image, text, preprocessor = demo_encoders(config)
    images = open_dataset_images(config.data)
    ids, mask = preprocessor.tokenize([samples.texts[index] for index in chosen])
    model = build_pmf(
        (image, text), PMFArchitecture(4, 4, 4, 4, 192), num_classes=int(samples.labels.max()) + 1, seed=0
    )
    pixels = preprocessor.pixel_values([images.open(samples.images[index]) for index in chosen])
    return Case(model, pixels, ids, mask, torch.from_numpy(samples.labels[chosen]))


def stored_attention(model: PMF, features: Features) -> Features:
    """Add to the features the attention of the data tokens to each other in the first fusing layer."""
    image, text = model.encoders
    fusing = model.architecture.prompted_layers(model.sizes)
    z, t = features.image_tokens, features.text_tokens
    return replace(
        features,
        image_attention=data_attention(image.layers[-fusing], z, image.data_bias(None, z.shape[1], z.dtype)),
        text_attention=data_attention(text.layers[-fusing], t, text.data_bias(features.text_mask, t.shape[1], t.dtype)),
    )


class Step:
    """A training step of one side; a learning rate of 0 keeps the weights, so that all steps are the same.

    Args:
        forward: Function that returns the logits, (B, C).
        model: The model with the trained tensors.
        labels: The classes, (B,).
        precision: The precision of products; bfloat16 by autocast.
    """

    def __init__(
        self, forward: Callable[[], Tensor], model: PMF, labels: Tensor, precision: Precision = "float32"
    ) -> None:
        self.forward, self.model, self.labels, self.precision = forward, model, labels, precision
        options = {"fused": True} if has_fused_updates(labels.device) else {}
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, **options)
        self.logits = torch.empty(0)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with computing_in(self.precision, self.labels.device):
            logits = self.forward()
            loss = cross_entropy(logits, self.labels)
        self.logits = logits.detach()
        del logits
        loss.backward()
        self.optimizer.step()

    def gradients(self) -> list[Tensor]:
        """Run a step and return the gradients of all trained tensors that are not empty, in the order of the model."""
        self()
        return [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]

    def peak_bytes(self, inputs: Iterable[Tensor | None], weights: Iterable[Tensor]) -> int:
        """Return the peak of the tensors alive in forward and backward pass, in bytes, with inputs, without weights."""
        self.optimizer.zero_grad(set_to_none=True)
        with PeakTracker(weights) as tracker:
            for tensor in inputs:
                if tensor is not None:
                    tracker.follow(tensor)
            with computing_in(self.precision, self.labels.device):
                loss = cross_entropy(self.forward(), self.labels)
            loss.backward()
        peak_bytes: int = tracker.peak_bytes
        return peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("demo", "base", "large"), default="demo")
    parser.add_argument("--batch", type=int, help="samples per batch (default: 32 for demo, otherwise 8)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="bfloat16 is autocast")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; demo uses cpu only")
    parser.add_argument("--threads", type=int, help="default: 1 for demo, as in its workers, otherwise one per core")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one pair instead of 15, to try the script")
    parser.add_argument("--count", action="store_true", help="only count the operators of a step on the accelerator")
    options = parser.parse_args()
    if options.count:
        print(count_table("base" if options.size == "demo" else options.size, options.batch or 32))
        return
    threads = options.threads or (1 if options.size == "demo" else torch.get_num_threads())
    torch.set_num_threads(threads)
    keep_freed_memory()  # excludes page faults from the times of both sides
    batch = options.batch or (32 if options.size == "demo" else 8)
    device = CPU if options.size == "demo" else device_of(options.device)
    case = demo_case(batch) if options.size == "demo" else random_case(options.size, batch, device)
    figures = measure(case, pairs=1 if options.quick else 15, precision=options.precision)
    settings: dict[str, Any] = {
        "size": options.size,
        "batch": batch,
        "precision": options.precision,
        "threads": threads,
    }
    figures = {**settings, "device": device_name(device), **figures}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


@dataclass(frozen=True)
class Sides:
    """The steps that are compared.

    Args:
        straightforward: The step of the straightforward model, from raw inputs.
        fast: The step of the fast path, from stored tokens.
        stored: The step of the fast path, from stored tokens and their stored attention.
    """

    straightforward: Step
    fast: Step
    stored: Step


def measure(case: Case, pairs: int, precision: Precision = "float32") -> dict[str, Any]:
    """Compare both sides on one case; print the table and return the figures."""
    model = case.model
    arguments = (case.pixel_values, case.input_ids, case.text_mask)
    features = features_of(model.encoders, model.entry_layers(), *arguments)
    with_attention = stored_attention(model, features)
    slow_model = StraightforwardPMF(model)
    sides = Sides(
        straightforward=Step(lambda: slow_model(*arguments), model, case.labels, precision),
        fast=Step(lambda: model(features), model, case.labels, precision),
        stored=Step(lambda: model(with_attention), model, case.labels, precision),
    )
    found = differences(sides)
    operations = case_operations(case, features)
    seconds = step_seconds(case, sides, operations, pairs, features.image_tokens.shape[1])
    weights = [*frozen_parameters(model.encoders), *model.parameters()]
    slow_peak = sides.straightforward.peak_bytes(arguments, weights)
    fast_peak = sides.fast.peak_bytes((features.image_tokens, features.text_tokens, features.text_mask), weights)
    all_weights = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    figures = {
        **ratios(seconds),
        "peak_ratio": fast_peak / slow_peak,
        "peak_ratio_with_parameters": (fast_peak + needed_weights(model)) / (slow_peak + all_weights),
        **found,
        "straightforward_seconds": statistics.median(seconds["straightforward"]),
        "fast_seconds": statistics.median(seconds["fast"]),
        "stored_seconds": statistics.median(seconds["stored"]),
        "operations": operations,
        "straightforward_peak_bytes": slow_peak,
        "fast_peak_bytes": fast_peak,
    }
    print(text_table(("figure", "value"), [(name, _show(name, value)) for name, value in figures.items()]))
    return figures


def differences(sides: Sides) -> dict[str, float]:
    """Return how far logits and gradients of the fast path are from the straightforward ones.

    Logits are compared absolutely, gradients relative to the largest element of each tensor.
    """
    expected, logits = sides.straightforward.gradients(), sides.straightforward.logits
    found = {}
    for name, step in (("", sides.fast), ("stored_", sides.stored)):
        gradients = step.gradients()
        found[f"{name}max_logit_difference"] = float((step.logits - logits).abs().max())
        found[f"{name}max_gradient_difference"] = max(
            float((got - want).abs().max() / want.abs().max())
            for got, want in zip(gradients, expected, strict=True)
            if want.numel()
        )
    return found


def case_operations(case: Case, features: Features) -> float:
    """Return the operations that one step of a case needs."""
    text_lengths = (
        np.full(len(case.labels), case.input_ids.shape[1])
        if case.text_mask is None
        else case.text_mask.sum(dim=1).cpu().numpy()
    )
    image_rows = features.image_tokens.shape[1]
    return necessary_operations(
        case.model, len(case.labels), image_rows, float(text_lengths.mean()), float((text_lengths**2).mean())
    )


def step_seconds(case: Case, sides: Sides, operations: float, pairs: int, image_rows: int) -> dict[str, list[float]]:
    """Return the seconds of alternating steps of all sides, and of the necessary operations at the rates of each pair.

    Args:
        case: The model and its batch.
        sides: The steps.
        operations: The operations that a step needs.
        pairs: The number of measured repetitions, after a warm-up.
        image_rows: The number of image tokens, for the size of the product whose rate is measured.
    """
    names = ("straightforward", "fast", "stored", "fastest floor", "linear floor")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    image, device = case.model.encoders[0], case.labels.device
    for index in range(pairs + 1):
        seconds["straightforward"].append(seconds_of(sides.straightforward, device))
        for _ in range(2):  # the second is measured: the first finds the caches as the other side left them
            fast_seconds = seconds_of(sides.fast, device)
        seconds["fast"].append(fast_seconds)
        seconds["stored"].append(seconds_of(sides.stored, device))
        with computing_in(sides.fast.precision, device):
            rates = product_rates(
                len(case.labels) * image_rows, image.hidden_size, int(image.config.intermediate_size), 3, device
            )
        seconds["fastest floor"].append(operations / max(rates.values()))
        seconds["linear floor"].append(operations / rates["linear"])
        if index == 0:
            seconds = {name: [] for name in seconds}  # a warm-up
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians of the ratios of each pair."""
    return {
        name: statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))
        for name, first, second in (
            ("speed_ratio", "straightforward", "fast"),
            ("stored_speed_ratio", "straightforward", "stored"),
            ("floor_ratio", "fast", "linear floor"),
            ("fastest_floor_ratio", "fast", "fastest floor"),
        )
    }


def needed_weights(model: PMF) -> int:
    """Return the bytes of the weights that the fast path reads: trained ones, and frozen ones of the fusing layers."""
    tensors: list[nn.Parameter | Tensor] = list(model.parameters())
    fusing = model.architecture.prompted_layers(model.sizes)
    for encoder in model.encoders:
        for layer in encoder.layers[-fusing:]:
            tensors.extend(layer.module.parameters())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _show(name: str, value: float) -> str:
    if name.endswith("bytes"):
        return format_bytes(int(value))
    return f"{value:.3g}" if name.endswith(("difference", "operations")) else f"{value:.4f}"


if __name__ == "__main__":
    main()
