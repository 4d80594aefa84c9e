"""Keep encoders on accelerators while these compute features."""

import contextlib
import copy
import gc
from collections.abc import Iterable, Iterator, Sequence

import torch

from nas.common.devices import CPU, is_accelerator, start_peak
from nas.models.encoders.base import Encoder


@contextlib.contextmanager
def placed_on(encoders: Iterable[Encoder], device: torch.device) -> Iterator[None]:
    """Keep encoders on a device; afterwards they are on the CPU, where workers get their weights from.

    Args:
        encoders: The encoders.
        device: The device.
    """
    if not is_accelerator(device):
        yield
        return
    try:
        for encoder in encoders:
            encoder.to(device)
        yield
    finally:
        for encoder in encoders:
            encoder.to(CPU)
        start_peak(device)  # gives the memory back


@contextlib.contextmanager
def copied_to(
    encoders: tuple[Encoder, Encoder], devices: Sequence[torch.device]
) -> Iterator[list[tuple[Encoder, Encoder]]]:
    """Yield copies of two encoders on each of some accelerators, which get their memory back afterwards.

    Args:
        encoders: The encoders, on the CPU.
        devices: The accelerators.
    """
    if not devices:  # collecting garbage takes about a second
        yield []
        return
    copies = []
    try:
        for device in devices:
            image, text = (copy.deepcopy(encoder).to(device) for encoder in encoders)
            copies.append((image, text))
        yield copies
    finally:
        copies.clear()
        gc.collect()
        for device in devices:
            start_peak(device)
