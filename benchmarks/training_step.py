"""One training step of PMF: the fast path against the straightforward reading, same weights, same batch, in one run.

A step is forward, loss, backward and optimiser. Steps of both sides alternate; ratios are medians of pairs. The
headline reads z and t; `stored_…` reads, besides, what they attend to in themselves at the first fusing layer.

Two floors: `floor_ratio` counts with the rate at which torch multiplies float32 matrices (`linear`, which is what the
straightforward side uses), `fastest_floor_ratio` with the fastest product known here, which on some processors is
oneDNN's and more than twice as fast. Below 1 the first is no floor any more.

Run: python -m benchmarks.training_step [--size demo|base|large] [--batch N] [--precision float32|bfloat16]
         [--device cpu|cuda] [--threads N] [--json FILE] [--quick]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from benchmarks.models import DEMO, demo_encoders, random_encoders
from benchmarks.straightforward import StraightforwardPMF, frozen_parameters
from nas.common.units import format_bytes
from nas.config.load import load_config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.memory.measurement import keep_freed_memory
from nas.memory.tracker import PeakTracker
from nas.models.encoders.frozen_ops import product
from nas.models.fusion.base import Features, features_of, sizes_of
from nas.models.fusion.data_attention import data_attention
from nas.models.fusion.pmf.architecture import PMFArchitecture, entry_layers_from
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.training.batches import BatchSchedule


@dataclass(frozen=True)
class Case:
    """A model and a raw batch.

    Args:
        model: PMF beside its encoders.
        pixel_values: (B, 3, height, width).
        input_ids: (B, T).
        text_mask: (B, T), or None where nothing is padded.
        labels: (B,).
    """

    model: PMF
    pixel_values: Tensor
    input_ids: Tensor
    text_mask: Tensor | None
    labels: Tensor


def random_case(size: str, batch: int, device: str) -> Case:
    """ViT and BERT with random weights, two fusing layers, all M = 4, h half the width, 128 text tokens."""
    image, text = (encoder.to(device) for encoder in random_encoders(size))
    architecture = PMFArchitecture.default(sizes_of(image, text))
    # At base size and batch 8 no mapping unit of these weights lies within 2.9e-5 of the kink of its ReLU, where
    # rounding would choose the gradient; of seed 0, one lies within 2e-6.
    model = build_model(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=101, seed=7)
    pixels, ids = torch.randn(batch, 3, 224, 224), torch.randint(1000, 30000, (batch, 128))
    return Case(model.to(device), pixels.to(device), ids.to(device), None, torch.randint(101, (batch,)).to(device))


def demo_case(batch: int) -> Case:
    """The demo's encoders, PMF's default with two fusing layers, and its first training batch."""
    config = load_config(DEMO)
    samples = read_dataset(config.data, ("train",)).splits["train"]
    chosen = BatchSchedule(len(samples), batch, seed=0).indices(0)
    image, text, preprocessor = demo_encoders(config)
    images = open_dataset_images(config.data)
    ids, mask = preprocessor.tokenize([samples.texts[index] for index in chosen])
    model = build_model(
        image_encoder=image,
        text_encoder=text,
        architecture=PMFArchitecture(4, 4, 4, 4, 192),
        num_classes=int(samples.labels.max()) + 1,
        seed=0,
    )
    pixels = preprocessor.pixel_values([images.open(samples.images[index]) for index in chosen])
    return Case(model, pixels, ids, mask, torch.from_numpy(samples.labels[chosen]))


def stored_attention(model: PMF, features: Features) -> Features:
    """The features with what the data rows attend to in themselves at the first fusing layer."""
    image, text = model.encoders
    image_start, text_start = entry_layers_from(model.sizes, model.architecture.fusion_layer)
    z, t = features.image_tokens, features.text_tokens
    return replace(
        features,
        image_attention=data_attention(image.layers[image_start], z, image.data_bias(None, z.shape[1], z.dtype)),
        text_attention=data_attention(
            text.layers[text_start], t, text.data_bias(features.text_mask, t.shape[1], t.dtype)
        ),
    )


class Step:
    """A training step of one side; a learning rate of 0 keeps the weights, so that all steps are the same.

    Args:
        forward: Gives logits.
        model: Holds the trained tensors.
        labels: (B,).
    """

    def __init__(self, forward: Callable[[], Tensor], model: PMF, labels: Tensor) -> None:
        self.forward, self.model, self.labels = forward, model, labels
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        self.logits = torch.empty(0)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.forward()
        loss = cross_entropy(logits, self.labels)
        self.logits = logits.detach()
        del logits
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def gradients(self) -> list[Tensor]:
        """Of every trained tensor that has numbers, in the model's order."""
        self()
        return [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]

    def peak_bytes(self, inputs: Iterable[Tensor | None], weights: Iterable[Tensor]) -> int:
        """Bytes of tensors alive at the peak of forward and backward, inputs among them, without any parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        with PeakTracker(weights) as tracker:
            for tensor in inputs:
                if tensor is not None:
                    tracker.follow(tensor)
            cross_entropy(self.forward(), self.labels).backward()  # type: ignore[no-untyped-call]
        return tracker.peak_bytes


def necessary_operations(model: PMF, batch_size: int, image_rows: int, text_rows: float, text_square: float) -> float:
    """Floating-point operations of the matrix products that one step needs, given z and t, in closed form.

    Of a modality with S data rows a sample, width D, feed-forward width F and H heads, r rows cost

        project(r) = 2 · r · D²      complete(r) = project(r) + 2 · (2 · r · D · F)      meet(r) = 2 · r · S · D

    (one projection; output projection and feed-forward; scores over the data, or their weighted sum). All data rows:

        first fusing layer   3 project(S) + 2 meet(S) + complete(S), backward complete(S): z and t are constants
        layers between       3 project(S) + 2 meet(S) + complete(S), backward complete(S) + 3 project(S) + 4 meet(S)
        last layer           nothing: only the readout row's output is read

    The M_qp query rows, in the last layer with the readout row r = M_qp + 1: complete(r) forward and backward, and
    over the data 2 meet(H · r) forward by absorbed projections, backward 2 where the data is constant and 4 where not
    (in layers between the keys and values that are there serve them at next to nothing). The message y: keys and
    values, 2 project(M_qp), forward and backward; the mapping, 2 · M_qp · (D_from · h + h · D_to), forward, to its
    input and to its weights. Prompts that all samples share cost next to nothing.

    Args:
        model: The architecture and its encoders.
        batch_size: B.
        image_rows: S of the images.
        text_rows: Mean S of the texts, padding not counted.
        text_square: Mean S² of the texts.
    """
    architecture, operations = model.architecture, 0.0
    fusing = min(encoder.num_layers for encoder in model.encoders) - architecture.fusion_layer
    widths = [encoder.hidden_size for encoder in model.encoders]
    sides = zip(model.encoders, (image_rows, text_rows), (image_rows**2, text_square), strict=True)
    for encoder, rows, square in sides:
        width, heads = encoder.hidden_size, int(encoder.config.num_attention_heads)
        hidden = int(encoder.config.intermediate_size)

        def complete(count: float, width: int = width, hidden: int = hidden) -> float:
            return 2 * count * width**2 + 2 * (2 * count * width * hidden)

        project, meet = 2 * rows * width**2, 2 * square * width
        for index in range(fusing):
            is_first, is_last = index == 0, index == fusing - 1
            if not is_last:
                operations += 3 * project + 2 * meet + 2 * complete(rows)
                operations += 0 if is_first else 3 * project + 4 * meet
            few = architecture.query_prompts + is_last
            operations += 2 * complete(few)
            if is_first or is_last:
                operations += (4 if is_first else 6) * (2 * heads * few * rows * width)
            operations += 2 * 2 * (2 * architecture.query_prompts * width**2)
    mapping = 2 * architecture.query_prompts * architecture.mapping_width * sum(widths)
    return batch_size * (operations + fusing * 2 * 3 * mapping)


def product_rates(rows: int, width: int, hidden: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Operations a second of the feed-forward block's first product, by torch's own `linear` and by the fast path's."""
    x, weight, bias = (torch.randn(shape, device=device) for shape in ((rows, width), (hidden, width), (hidden,)))
    seconds: dict[str, list[float]] = {"linear": [], "fast path": []}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, multiply in (("linear", linear), ("fast path", product)):
                seconds[name].append(seconds_of(lambda multiply=multiply: multiply(x, weight, bias)))  # type: ignore[misc]
    # The first is a warm-up; the median is the rate that the steps see, on a machine with neighbours.
    return {name: 2 * rows * width * hidden / statistics.median(times[1:]) for name, times in seconds.items()}


def seconds_of(step: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("demo", "base", "large"), default="demo")
    parser.add_argument("--batch", type=int, help="default: 32 at demo size, else 8")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for base and large")
    parser.add_argument("--threads", type=int, help="default: 1 at demo size, as its workers have; else one a core")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="3 pairs instead of 15: shows that the script works")
    options = parser.parse_args()
    threads = options.threads or (1 if options.size == "demo" else torch.get_num_threads())
    torch.set_num_threads(threads)
    keep_freed_memory()  # so that paging is no part of the comparison; both sides gain
    batch = options.batch or (32 if options.size == "demo" else 8)
    case = demo_case(batch) if options.size == "demo" else random_case(options.size, batch, options.device)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bfloat16"):
        figures = measure(case, pairs=3 if options.quick else 15)
    settings = {"size": options.size, "batch": batch, "precision": options.precision, "threads": threads}
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    figures = {**settings, "device": name, **figures}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def measure(case: Case, pairs: int) -> dict[str, float]:
    """Compare both sides on one case; prints the table and returns the figures."""
    model = case.model
    arguments = (case.pixel_values, case.input_ids, case.text_mask)
    features = features_of(model.encoders, model.entry_layers(), *arguments)
    richer = stored_attention(model, features)
    slow_model = StraightforwardPMF(model)
    slow = Step(lambda: slow_model(*arguments), model, case.labels)
    fast = Step(lambda: model(features), model, case.labels)
    stored = Step(lambda: model(richer), model, case.labels)

    expected, logits = slow.gradients(), slow.logits
    differences = {}
    for name, step in (("", fast), ("stored_", stored)):
        gradients = step.gradients()
        differences[f"{name}max_logit_difference"] = float((step.logits - logits).abs().max())
        differences[f"{name}max_gradient_difference"] = max(
            float((got - want).abs().max() / want.abs().max())
            for got, want in zip(gradients, expected, strict=True)
            if want.numel()
        )

    text_lengths = (
        np.full(len(case.labels), case.input_ids.shape[1])
        if case.text_mask is None
        else case.text_mask.sum(dim=1).cpu().numpy()
    )
    image_rows = features.image_tokens.shape[1]
    operations = necessary_operations(
        model, len(case.labels), image_rows, float(text_lengths.mean()), float((text_lengths**2).mean())
    )
    seconds: dict[str, list[float]] = {
        "straightforward": [],
        "fast": [],
        "stored": [],
        "fastest floor": [],
        "linear floor": [],
    }
    image = model.encoders[0]
    for index in range(pairs + 1):
        seconds["straightforward"].append(seconds_of(slow))
        for _ in range(2):  # the second is measured: the first finds the caches as the other side left them
            fast_seconds = seconds_of(fast)
        seconds["fast"].append(fast_seconds)
        seconds["stored"].append(seconds_of(stored))
        rates = product_rates(
            len(case.labels) * image_rows, image.hidden_size, int(image.config.intermediate_size), 3, case.labels.device
        )
        seconds["fastest floor"].append(operations / max(rates.values()))
        seconds["linear floor"].append(operations / rates["linear"])
        if index == 0:
            seconds = {name: [] for name in seconds}  # a warm-up
    ratio = {
        name: statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))
        for name, first, second in (
            ("speed_ratio", "straightforward", "fast"),
            ("stored_speed_ratio", "straightforward", "stored"),
            ("floor_ratio", "fast", "linear floor"),
            ("fastest_floor_ratio", "fast", "fastest floor"),
        )
    }

    weights = [*frozen_parameters(model.encoders), *model.parameters()]
    slow_peak = slow.peak_bytes(arguments, weights)
    fast_peak = fast.peak_bytes((features.image_tokens, features.text_tokens, features.text_mask), weights)
    all_weights = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    needed = needed_weights(model)
    figures = {
        **ratio,
        "peak_ratio": fast_peak / slow_peak,
        "peak_ratio_with_parameters": (fast_peak + needed) / (slow_peak + all_weights),
        **differences,
        "straightforward_seconds": statistics.median(seconds["straightforward"]),
        "fast_seconds": statistics.median(seconds["fast"]),
        "stored_seconds": statistics.median(seconds["stored"]),
        "operations": operations,
        "straightforward_peak_bytes": slow_peak,
        "fast_peak_bytes": fast_peak,
    }
    print(text_table(("figure", "value"), [(name, _show(name, value)) for name, value in figures.items()]))
    return figures


def needed_weights(model: PMF) -> int:
    """Bytes of what the fast path reads: trained parameters, and frozen ones from the first fusing layer on."""
    tensors: list[nn.Parameter | Tensor] = list(model.parameters())
    starts = entry_layers_from(model.sizes, model.architecture.fusion_layer)
    for encoder, start in zip(model.encoders, starts, strict=True):
        for layer in encoder.layers[start:]:
            tensors.extend(layer.module.parameters())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _show(name: str, value: float) -> str:
    if name.endswith("bytes"):
        return format_bytes(int(value))
    return f"{value:.3g}" if name.endswith(("difference", "operations")) else f"{value:.4f}"


if __name__ == "__main__":
    main()
