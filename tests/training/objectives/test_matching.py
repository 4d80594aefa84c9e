"""Hard negatives against their distribution, and the matching loss against explicit sums."""

import math

import numpy as np
import pytest
import torch

from nas.training.objectives.contrastive import PairItems, known_positives
from nas.training.objectives.matching import (
    MatchingPairs,
    gumbel_noise,
    matching_loss,
    matching_pairs,
    sample_negatives,
)

SIMILARITIES = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.5, 2.0, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.3, 4.0]])
POSITIVE = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
DRAWS = 20_000


def test_negatives_have_the_probabilities_of_a_softmax_over_the_other_candidates() -> None:
    generator = np.random.default_rng(0)
    noise = torch.from_numpy(generator.gumbel(size=(4, DRAWS, 4)).astype(np.float32))
    for row in range(4):
        similarities, positive = SIMILARITIES[row].expand(DRAWS, 4), POSITIVE[row].expand(DRAWS, 4)
        chosen, exists = sample_negatives(similarities, positive, noise[row])
        assert bool(exists.all())
        weights = [0.0 if POSITIVE[row, j] else math.exp(float(SIMILARITIES[row, j])) for j in range(4)]
        for j, weight in enumerate(weights):
            probability = weight / sum(weights)
            deviation = math.sqrt(probability * (1 - probability) / DRAWS)
            assert abs(float((chosen == j).float().mean()) - probability) <= 4 * deviation


def test_negatives_depend_on_the_generator_alone_and_are_never_positives() -> None:
    batch = PairItems(torch.tensor([1, 1, 2, 3, 4, 5]), torch.tensor([7, 8, 8, 9, 7, 7]))
    positive = known_positives(batch, batch)
    similarities = torch.where(positive, 50.0, 0.0)  # the positives are the most similar by far
    drawn = []
    for seed in (0, 0, 1):
        generator = np.random.default_rng(seed)
        pairs = [matching_pairs(similarities, similarities.T, positive, gumbel_noise(generator, 6)) for _ in range(50)]
        for entry in pairs:
            negative = entry.labels == 0
            assert not bool(positive[entry.images[negative], entry.texts[negative]].any())
            assert bool((entry.weights == 1).all())
        drawn.append(torch.stack([entry.texts for entry in pairs]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_pairs_are_the_positives_then_each_image_with_another_text_then_each_text_with_another_image() -> None:
    similarities, noise = torch.tensor([[0.0, 9.0, 1.0], [0.0, 0.0, 9.0], [9.0, 1.0, 0.0]]), torch.zeros(2, 3, 3)
    pairs = matching_pairs(similarities, similarities.T, torch.eye(3, dtype=torch.bool), noise)
    assert pairs.images.tolist() == [0, 1, 2, 0, 1, 2, 2, 0, 1]
    assert pairs.texts.tolist() == [0, 1, 2, 1, 2, 0, 0, 1, 2]
    assert pairs.labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_sample_whose_candidates_all_match_has_no_negative_and_no_part_in_the_loss() -> None:
    positive = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    pairs = matching_pairs(torch.zeros(3, 3), torch.zeros(3, 3), positive, torch.zeros(2, 3, 3))
    assert pairs.weights.tolist() == [1, 1, 1, 0, 1, 1, 0, 1, 1]
    logits = torch.zeros(9, 2, dtype=torch.float64)
    logits[3] = torch.tensor([-1e3, 1e3])
    assert float(matching_loss(logits, pairs)) == pytest.approx(math.log(2), abs=1e-12)


def test_loss_equals_the_mean_of_the_binary_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    labels, weights = torch.tensor([1, 1, 0, 0, 0, 0]), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    expected = []
    for row, label, weight in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        matches = 1 / (1 + math.exp(row[0] - row[1]))
        if weight:
            expected.append(-math.log(matches if label else 1 - matches))
    pairs = MatchingPairs(torch.zeros(6).long(), torch.zeros(6).long(), labels, weights)
    assert float(matching_loss(logits, pairs)) == pytest.approx(math.fsum(expected) / 5, abs=1e-12)
