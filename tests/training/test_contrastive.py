"""The contrastive loss against closed forms and an independent slow computation."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from nas.training.contrastive import ContrastiveLoss, contrastive_sum

TEMPERATURE = torch.tensor(0.2, dtype=torch.float64)


def embeddings(count: int, size: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = (
        normalize(torch.randn(count, size, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)
    )
    return images, texts


def slow_sum(images: Tensor, texts: Tensor, positives: list[list[bool]]) -> float:
    """Return the loss by loops over queries and partners."""
    scores = [[float(a @ b) / float(TEMPERATURE) for b in texts] for a in images]
    count = len(scores)
    total = 0.0
    for is_transposed in (False, True):
        for query in range(count):
            row = [scores[other][query] if is_transposed else scores[query][other] for other in range(count)]
            right = [positives[other][query] if is_transposed else positives[query][other] for other in range(count)]
            wrong = sum(math.exp(score) for score, good in zip(row, right, strict=True) if not good)
            losses = [
                -math.log(math.exp(score) / (math.exp(score) + wrong))
                for score, good in zip(row, right, strict=True)
                if good
            ]
            total += sum(losses) / len(losses) / 2
    return total


def test_loss_of_distinct_pairs_is_the_symmetric_cross_entropy() -> None:
    images, texts = embeddings(6)
    scores, targets = images @ texts.T / TEMPERATURE, torch.arange(6)
    expected = (cross_entropy(scores, targets, reduction="sum") + cross_entropy(scores.T, targets, reduction="sum")) / 2
    torch.testing.assert_close(contrastive_sum(images, texts, TEMPERATURE, torch.eye(6, dtype=torch.bool)), expected)


def test_loss_with_several_partners_equals_a_slow_computation() -> None:
    images, texts = embeddings(6)
    items = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2], [3, 3], [4, 4]])
    known = np.concatenate([items.numpy(), [[3, 4], [0, 9]]])  # a row that is not in the batch joins 3 and 4
    positives = ContrastiveLoss(known).positives(items)
    pairs = {tuple(row) for row in known.tolist()}
    expected = [[(int(a), int(b)) in pairs for b in items[:, 1]] for a in items[:, 0]]
    assert positives.tolist() == expected
    assert expected[4][5] and not expected[5][4] and expected[0][1] and expected[2][3]
    assert float(contrastive_sum(images, texts, TEMPERATURE, positives)) == pytest.approx(
        slow_sum(images, texts, expected)
    )


def test_loss_is_zero_without_wrong_partners_and_has_a_finite_gradient() -> None:
    images, texts = (side.requires_grad_() for side in embeddings(3))
    loss = contrastive_sum(images, texts, TEMPERATURE, torch.ones(3, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0 and images.grad is not None and float(images.grad.abs().sum()) == 0.0


def test_loss_of_equal_embeddings_counts_the_wrong_partners() -> None:
    side = torch.ones(5, 1, dtype=torch.float64)
    positives = torch.eye(5, dtype=torch.bool)
    positives[0, 1] = True
    # Picture 0 and text 1 have one wrong partner less than the others.
    expected = (4 * math.log(5) + math.log(4) + 4 * math.log(5) + math.log(4)) / 2
    assert float(contrastive_sum(side, side, TEMPERATURE, positives)) == pytest.approx(expected)


def test_gradients_are_those_of_finite_differences() -> None:
    images, texts = (side.requires_grad_() for side in embeddings(4))
    positives = torch.eye(4, dtype=torch.bool)
    positives[1, 2] = True
    temperature = TEMPERATURE.clone().requires_grad_()

    def loss(image: Tensor, text: Tensor, divisor: Tensor) -> Tensor:
        return contrastive_sum(image, text, divisor, positives)

    assert torch.autograd.gradcheck(loss, (images, texts, temperature))
