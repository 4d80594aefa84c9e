"""Share the steps of one training among processes that have a part of every batch each.

The losses of a part are divided by the weight of the whole batch (`Trainer.accumulate_gradients`), so that the gradient
of the batch is the sum over the processes, however they divide it and whatever the samples weigh. All processes update
their weights with the same sum, to the last bit, and so hold the same weights after every step.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nas.training.distributed import GradientGroup

JOINED_BYTES = 2**20
"""The size up to which gradients are sent together: less than a micro-batch needs, whose memory is free by then."""


class GradientSum:
    """Adds up the gradients of the processes of a group.

    Args:
        model: The model; it has the same trained parameters in all processes.
        group: The processes.
    """

    def __init__(self, model: nn.Module, group: GradientGroup) -> None:
        self._group = group
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._used: list[nn.Parameter] | None = None

    def share_weights(self) -> None:
        """Give the weights of rank 0 to all processes: what they start from may differ by rounding.

        Raises:
            GroupBroken: If a process is lost.
        """
        for parameter in self._parameters:
            self._group.broadcast(parameter.detach(), 0)

    def add_up(self, loss: Tensor) -> Tensor:
        """Replace the gradients of this process by the sums over all processes.

        Args:
            loss: The loss of the part of this process, 0-dimensional.

        Returns:
            The loss of the whole batch, 0-dimensional.

        Raises:
            GroupBroken: If a process is lost.
        """
        if self._group.size == 1:
            return loss
        if self._used is None:
            self._used = self._find_used()
        summed = loss.clone()
        gradients = [summed]
        for parameter in self._used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for joined in _joined(gradients):
            self._sum(joined)
        return summed

    def _find_used(self) -> list[nn.Parameter]:
        """Return the parameters that have a gradient in any process: one without a sample has none.

        The others keep none, as in a single process: an optimizer also decays weights whose gradient is zero.
        """
        counts = torch.tensor([parameter.grad is not None for parameter in self._parameters], dtype=torch.int32)
        self._group.sum(counts)
        return [parameter for parameter, count in zip(self._parameters, counts.tolist(), strict=True) if count]

    def _sum(self, gradients: Sequence[Tensor]) -> None:
        if len(gradients) == 1 and gradients[0].is_contiguous():
            self._group.sum(gradients[0])
            return
        buffer = torch.cat([gradient.flatten() for gradient in gradients])
        self._group.sum(buffer)
        parts = buffer.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _joined(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the gradients in their order, small ones together; each message has a delay of its own."""
    waiting: list[Tensor] = []
    waiting_bytes = 0
    for gradient in gradients:
        if waiting and waiting_bytes + gradient.nbytes > JOINED_BYTES:
            yield waiting
            waiting, waiting_bytes = [], 0
        waiting.append(gradient)
        waiting_bytes += gradient.nbytes
    if waiting:
        yield waiting
