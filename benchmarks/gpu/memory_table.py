"""Measure the peak memory of a training step for each L_f on a GPU, as in the PMF paper's figure of memory over L_f.

Full fine-tuning, straightforward PMF and the fast path, in float32 with SGD and momentum, as `training_memory.py`
predicts them from shapes: the table has both. The memory comprises all weights in use, gradients, optimizer state,
activations and inputs, as the allocator of the GPU counts them.

Run: python -m benchmarks.gpu.memory_table [--device cuda] [--short] [--json FILE]
"""

import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from benchmarks.gpu.part import Part, run_part
from benchmarks.models import empty_encoders
from benchmarks.straightforward import StraightforwardPMF
from benchmarks.training_memory import CLASSES, TEXT_TOKENS, full_fine_tuning, pmf, raw_inputs
from nas.common.devices import allocated_peak_bytes, has_fused_updates, is_accelerator, start_peak
from nas.common.units import format_bytes
from nas.models.encoders.base import Encoder
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import Features, sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.run.tables import text_table

_IMAGE_TOKENS = 197


def measure(part: Part) -> bool:
    """Predict and measure all rows, and print a table; there is no bar."""
    size, batch = ("tiny", 2) if part.is_short else ("base", 32)
    with FakeTensorMode():
        image, text = empty_encoders(size)
        layers = [1] if part.is_short else sorted({*range(0, image.num_layers, 2)})
        predicted = {"full fine-tuning": full_fine_tuning(image, text, batch)}
        for layer in layers:
            slow, fast = pmf(image, text, batch, layer)
            predicted |= {f"straightforward, L_f {layer}": slow, f"fast, L_f {layer}": fast}
    figures: dict[str, dict[str, Any]] = {name: {"predicted_bytes": value} for name, value in predicted.items()}
    settings = {"size": size, "batch": batch, "text_tokens": TEXT_TOKENS}
    part.write({**settings, "rows": figures})
    if not is_accelerator(part.device):
        print("memory: predictions only; the CPU has no allocator that counts")
    else:
        encoders = empty_encoders(size)
        rows: dict[str, Callable[[], int]] = {"full fine-tuning": lambda: _full(encoders, batch, part.device)}
        for layer in layers:
            rows[f"straightforward, L_f {layer}"] = lambda layer=layer: _slow(encoders, batch, layer, part.device)  # type: ignore[misc]
            rows[f"fast, L_f {layer}"] = lambda layer=layer: _fast(encoders, batch, layer, part.device)  # type: ignore[misc]
        for name, row in rows.items():
            figures[name]["measured_bytes"] = row()
            part.write({**settings, "rows": figures})
    header = ("training", "predicted", "measured", "saving")
    full = figures["full fine-tuning"]
    print(text_table(header, [(name, *_cells(entry, full)) for name, entry in figures.items()]))
    return False


def _cells(entry: dict[str, int], full: dict[str, int]) -> tuple[str, str, str]:
    key = "measured_bytes" if "measured_bytes" in entry else "predicted_bytes"
    measured = format_bytes(entry["measured_bytes"]) if "measured_bytes" in entry else ""
    return format_bytes(entry["predicted_bytes"]), measured, f"{1 - entry[key] / full[key]:.0%}"


def _peak(
    device: torch.device, build: Callable[[], tuple[Callable[[], Tensor], Iterable[nn.Parameter]]], labels: Tensor
) -> int:
    """Return the peak of building a model and of two steps of it, above what was there before.

    Args:
        device: The accelerator.
        build: Function that places everything, and returns the forward pass and the trained weights.
        labels: The classes, (B,), on the host.
    """
    gc.collect()
    start_peak(device)
    before = allocated_peak_bytes(device)
    labels = labels.to(device)
    forward, trained = build()
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, fused=has_fused_updates(device))
    start_peak(device)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(forward(), labels).backward()
        optimizer.step()
    return allocated_peak_bytes(device) - before


def _full(encoders: tuple[Encoder, Encoder], batch: int, device: torch.device) -> int:
    image, text = encoders
    pixels, ids, labels = raw_inputs(batch)

    def build() -> tuple[Callable[[], Tensor], Iterable[nn.Parameter]]:
        head = nn.Linear(image.hidden_size + text.hidden_size, CLASSES).to(device)
        trained = [*image.parameters(), *text.parameters(), *head.parameters()]
        for weight in trained:
            weight.requires_grad_(True)
        ours = pixels.to(device), ids.to(device)

        def forward() -> Tensor:
            z = image.model(ours[0]).last_hidden_state[:, 0]
            t = text.model(ours[1]).last_hidden_state[:, 0]
            logits: Tensor = head(torch.cat([z, t], dim=1))
            return logits

        return forward, trained

    try:
        for encoder in encoders:
            encoder.to(device)
        return _peak(device, build, labels) + sum(map(_bytes, encoders))
    finally:
        for encoder in encoders:
            for weight in encoder.parameters():
                weight.requires_grad_(False)
                weight.grad = None
            encoder.to(torch.device("cpu"))


def _slow(encoders: tuple[Encoder, Encoder], batch: int, layer: int, device: torch.device) -> int:
    pixels, ids, labels = raw_inputs(batch)

    def build() -> tuple[Callable[[], Tensor], Iterable[nn.Parameter]]:
        model = _pmf(encoders, layer).to(device)
        slow, ours = StraightforwardPMF(model), (pixels.to(device), ids.to(device))
        return lambda: slow(*ours, None), model.parameters()

    try:
        for encoder in encoders:
            encoder.to(device)
        return _peak(device, build, labels) + sum(map(_bytes, encoders))
    finally:
        for encoder in encoders:
            encoder.to(torch.device("cpu"))


def _fast(encoders: tuple[Encoder, Encoder], batch: int, layer: int, device: torch.device) -> int:
    image, text = encoders
    fusing = _architecture(encoders, layer).prompted_layers(sizes_of(image, text))

    def build() -> tuple[Callable[[], Tensor], Iterable[nn.Parameter]]:
        model = _pmf(encoders, layer).to(device)
        features = Features(
            torch.randn(batch, _IMAGE_TOKENS, image.hidden_size).to(device),
            torch.randn(batch, TEXT_TOKENS, text.hidden_size).to(device),
            None,
        )
        return lambda: model(features), model.parameters()

    saved = [dict(encoder.model.state_dict()) for encoder in encoders]
    try:
        needed = 0
        for encoder in encoders:
            tail = {
                name: values.to(device) for name, values in tail_weights(encoder, encoder.num_layers - fusing).items()
            }
            needed += sum(values.numel() * values.element_size() for values in tail.values())
            encoder.model.load_state_dict(tail, strict=False, assign=True)
            encoder.model.requires_grad_(False)
            del tail
        return _peak(device, build, raw_inputs(batch)[2]) + needed
    finally:
        for encoder, state in zip(encoders, saved, strict=True):
            encoder.model.load_state_dict(state, assign=True)
            encoder.model.requires_grad_(False)


def _pmf(encoders: tuple[Encoder, Encoder], layer: int) -> PMF:
    image, text = encoders
    architecture = _architecture(encoders, layer)
    return PMF(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=CLASSES)


def _architecture(encoders: tuple[Encoder, Encoder], layer: int) -> PMFArchitecture:
    return PMFArchitecture(layer, 4, 4, 4, encoders[0].hidden_size // 2)


def _bytes(encoder: Encoder) -> int:
    return sum(weight.numel() * weight.element_size() for weight in encoder.parameters())


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
