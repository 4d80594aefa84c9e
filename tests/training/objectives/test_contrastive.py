"""The contrastive loss against closed forms and an explicit computation in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.training.objectives.contrastive import (
    PairItems,
    PairQueue,
    contrastive_loss,
    contrastive_targets,
    known_positives,
    soft_cross_entropy,
)

CPU = torch.device("cpu")


def items(images: list[int], texts: list[int]) -> PairItems:
    return PairItems(torch.tensor(images), torch.tensor(texts))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_direction(
    logits: NDArray[np.float64], positive: NDArray[np.bool_], soft: Tensor | None, alpha: float
) -> float:
    """Return the loss of one direction by sums over samples and candidates, equations 1, 2 and 6 of ALBEF."""
    losses = []
    for i, row in enumerate(logits):
        total = math.fsum(math.exp(value) for value in row)
        count = sum(positive[i])
        loss = 0.0
        for j, value in enumerate(row):
            target = (1.0 / count if positive[i][j] else 0.0) * (1.0 if soft is None else 1 - alpha)
            if soft is not None:
                teacher = [math.exp(float(entry)) for entry in soft[i]]
                target += alpha * teacher[j] / math.fsum(teacher)
            loss -= target * math.log(math.exp(value) / total)
        losses.append(loss)
    return math.fsum(losses) / len(losses)


def test_equal_pictures_and_equal_texts_are_positives_in_both_directions() -> None:
    batch = items([1, 1, 2, 3], [7, 8, 8, 9])
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    found = known_positives(batch, batch)
    assert found.int().tolist() == expected
    assert torch.equal(found, found.T)
    assert known_positives(batch, items([9, 2], [9, 0])).int().tolist() == [[0, 0], [0, 0], [0, 1], [1, 0]]


def test_loss_of_equal_similarities_is_the_logarithm_of_the_number_of_candidates() -> None:
    zeros = torch.zeros(4, 6, dtype=torch.float64)
    positive = torch.eye(4, 6, dtype=torch.bool)
    assert float(contrastive_loss((zeros, zeros), positive, None, 0.0)) == pytest.approx(math.log(6), abs=1e-12)
    # A momentum model without preferences leaves it there, whatever its weight.
    assert float(contrastive_loss((zeros, zeros), positive, (zeros, zeros), 0.4)) == pytest.approx(
        math.log(6), abs=1e-12
    )


def test_least_loss_is_the_entropy_of_the_targets() -> None:
    targets = random(3, 5).softmax(dim=1)
    entropy = -(targets * targets.log()).sum(dim=1).mean()
    assert float(soft_cross_entropy(targets.log(), targets)) == pytest.approx(float(entropy), abs=1e-12)
    assert float(soft_cross_entropy(random(3, 5, seed=1), targets)) > float(entropy)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("distils", [False, True])
def test_loss_equals_sums_over_samples_and_candidates(alpha: float, distils: bool) -> None:
    batch, queue = items([1, 1, 2, 3], [7, 8, 8, 9]), items([2, 5, 1], [4, 9, 7])
    candidates = PairItems(torch.cat([batch.images, queue.images]), torch.cat([batch.texts, queue.texts]))
    positive = known_positives(batch, candidates)
    logits = random(4, 7, seed=1), random(4, 7, seed=2)
    soft = (random(4, 7, seed=3), random(4, 7, seed=4)) if distils else None
    expected = [
        slow_direction(direction.numpy(), positive.numpy(), None if soft is None else soft[index], alpha)
        for index, direction in enumerate(logits)
    ]
    loss = contrastive_loss(logits, positive, soft, alpha)
    assert float(loss) == pytest.approx(sum(expected) / 2, abs=1e-12)


def test_targets_share_the_hard_part_among_the_positives_and_sum_to_one() -> None:
    positive = torch.tensor([[True, True, False, False]])
    soft = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    targets = contrastive_targets(positive, soft, 0.4, torch.float64)
    assert targets.tolist()[0] == pytest.approx([0.3 + 0.04, 0.3 + 0.08, 0.12, 0.16], abs=1e-12)
    assert float(targets.sum()) == pytest.approx(1.0, abs=1e-12)


def test_gradient_equals_the_closed_form() -> None:
    # Of one direction: (softmax − target) / B.
    logits = random(3, 5, seed=5).requires_grad_()
    positive = torch.eye(3, 5, dtype=torch.bool)
    targets = contrastive_targets(positive, random(3, 5, seed=6), 0.4, torch.float64)
    torch.autograd.backward(soft_cross_entropy(logits, targets))
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(dim=1) - targets) / 3, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "sizes"), [(7, [3, 3, 3, 3]), (4, [3, 6, 2]), (8, [4, 4, 4]), (5, [2])])
def test_queue_holds_the_last_pairs(size: int, sizes: list[int]) -> None:
    queue, everything = PairQueue(size, 2, CPU), 0
    kept: list[int] = []
    for count in sizes:
        numbers = torch.arange(everything, everything + count)
        everything += count
        rows = numbers[:, None].expand(-1, 2).float()
        queue.add(rows, -rows, PairItems(numbers, numbers + 100))
        kept = (kept + numbers.tolist())[-size:]
    assert len(queue) == len(kept)
    own = torch.full((1, 2), -1.0)
    images, texts, found = queue.candidates(own, own, items([-1], [-1]))
    assert images[0].tolist() == texts[0].tolist() == [-1, -1]
    assert sorted(images[1:, 0].tolist()) == kept
    assert torch.equal(texts[1:], -images[1:])
    assert torch.equal(found.images[1:], images[1:, 0].long()) and torch.equal(
        found.texts, found.images + 100 * (found.images >= 0)
    )


def test_queue_without_places_adds_nothing() -> None:
    queue = PairQueue(0, 3, CPU)
    rows = torch.ones(2, 3)
    queue.add(rows, rows, items([1, 2], [1, 2]))
    images, _, found = queue.candidates(rows, rows, items([1, 2], [3, 4]))
    assert len(queue) == 0 and images.shape == (2, 3) and found.texts.tolist() == [3, 4]


def test_queue_continues_from_its_state() -> None:
    queue, other = PairQueue(5, 2, CPU), PairQueue(5, 2, CPU)
    for number in range(4):
        rows = torch.full((2, 2), float(number))
        queue.add(rows, rows, items([number, number], [number, number]))
    other.load({name: torch.as_tensor(value).clone() for name, value in queue.state().items()})
    for each in (queue, other):
        each.add(torch.full((2, 2), 9.0), torch.full((2, 2), 9.0), items([9, 9], [9, 9]))
    own = torch.zeros(1, 2)
    for first, second in zip(
        queue.candidates(own, own, items([0], [0]))[:2], other.candidates(own, own, items([0], [0]))[:2], strict=True
    ):
        assert torch.equal(first, second)
