"""The losses of training steps, at which the host looks without waiting for the device."""

import math
from collections import deque

import torch
from torch import Tensor

from nas.common.devices import HostCopy, is_accelerator
from nas.common.errors import TrainingError


class StepLosses:
    """Checks the losses of a training, and hands them out in order.

    On the CPU a loss is checked at once, before the weights are updated. On an accelerator it is checked in the step
    after: the device would otherwise have nothing to do until the host has seen the loss. The weights may then be those
    after a loss that is not finite, so that `finish` has to be called before they are saved.

    Args:
        device: The device of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = 1 if is_accelerator(device) else 0
        self._copied: deque[tuple[int, HostCopy]] = deque()
        self._known: list[float] = []

    def add(self, index: int, parts: Tensor) -> None:
        """Add the loss of a step, and check those that have to be known by now.

        Args:
            index: The number of the step, from 0.
            parts: The parts whose sum is the loss, (K,).

        Raises:
            TrainingError: If a loss is not finite.
        """
        self._copied.append((index, HostCopy(parts)))
        while len(self._copied) > self._late:
            self._check()

    def finish(self) -> None:
        """Check all losses.

        Raises:
            TrainingError: If a loss is not finite.
        """
        while self._copied:
            self._check()

    def take(self) -> list[float]:
        """Return the checked losses that were not returned before, in the order of the steps."""
        known, self._known = self._known, []
        return known

    def _check(self) -> None:
        index, copied = self._copied.popleft()
        loss = sum(copied.wait().tolist())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {index}; lower recipe.learning_rates or set recipe.clip_norm"
            )
        self._known.append(loss)
