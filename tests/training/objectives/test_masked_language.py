"""Masked tokens against BERT's rules, and the loss against explicit sums."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nas.data.mask_vocabulary import MaskVocabulary
from nas.training.objectives.masked_language import (
    mask_texts,
    masked_count,
    masked_language_loss,
    max_masked_count,
)

VOCABULARY = MaskVocabulary(size=60, mask_id=4, special_ids=(0, 1, 2, 3, 4))


def texts(count: int, length: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return texts of many lengths, with a special token at both ends and padding of zeros, and their mask."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, length + 1, size=count)
    mask = np.arange(length) < lengths[:, None]
    ids = generator.integers(5, 60, size=(count, length))
    ids[:, 0] = 2
    ids[np.arange(count), lengths - 1] = 3
    return np.where(mask, ids, 0), mask


def test_as_many_tokens_are_masked_as_in_bert() -> None:
    expected = [0] + [max(1, round(0.15 * count)) for count in range(1, 200)]
    assert masked_count(np.arange(200)).tolist() == expected
    assert max_masked_count(32, 40) == 32 * 6


def test_special_tokens_and_padding_are_never_masked_and_other_tokens_stay() -> None:
    ids, mask = texts(500, 24)
    masked = mask_texts(ids, mask, VOCABULARY, np.random.default_rng(1))
    places = masked.places.numpy()
    ordinary = mask & (ids >= 5)
    assert ordinary.ravel()[places].all()
    per_text = np.bincount(places // 24, minlength=500)
    assert per_text.tolist() == masked_count(ordinary.sum(axis=1)).tolist()
    assert len(places) <= max_masked_count(500, 24)
    assert masked.targets.tolist() == ids.ravel()[places].tolist()
    others = np.setdiff1d(np.arange(ids.size), places)
    assert (masked.ids.numpy().ravel()[others] == ids.ravel()[others]).all()
    assert not np.isin(masked.ids.numpy().ravel()[places], [0, 1, 2, 3]).any()


def test_of_the_chosen_tokens_80_percent_are_masked_10_replaced_and_10_unchanged() -> None:
    ids, mask = texts(4_000, 40, seed=2)
    masked = mask_texts(ids, mask, VOCABULARY, np.random.default_rng(3))
    new, old = masked.ids.numpy().ravel()[masked.places.numpy()], masked.targets.numpy()
    count = len(old)
    assert count > 10_000
    # One of the 55 ordinary tokens that replace one is the token itself.
    shares = {
        0.8: (new == 4).mean(),
        0.1 + 0.1 / 55: (new == old).mean(),
        0.1 - 0.1 / 55: ((new != 4) & (new != old)).mean(),
    }
    for share, found in shares.items():
        assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / count)
    replaced = new[(new != 4) & (new != old)]
    assert set(replaced) == set(range(5, 60))


def test_every_token_of_a_text_is_equally_likely_to_be_masked() -> None:
    ids = np.full((20_000, 9), 7, dtype=np.int64)
    masked = mask_texts(ids, None, VOCABULARY, np.random.default_rng(4))
    shares = np.bincount(masked.places.numpy() % 9, minlength=9) / 20_000
    assert np.abs(shares - 1 / 9).max() <= 4 * math.sqrt(1 / 9 * 8 / 9 / 20_000)


def test_masks_depend_on_the_generator_alone() -> None:
    ids, mask = texts(20, 12)
    before = ids.copy()
    first, again, other = (mask_texts(ids, mask, VOCABULARY, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.ids, again.ids) and torch.equal(first.places, again.places)
    assert not torch.equal(first.ids, other.ids)
    assert (ids == before).all()


def test_text_of_special_tokens_alone_has_no_masked_token() -> None:
    ids = np.array([[2, 3], [2, 3]], dtype=np.int64)
    masked = mask_texts(ids, None, VOCABULARY, np.random.default_rng(0))
    assert len(masked.places) == len(masked.targets) == 0 and masked.ids.tolist() == ids.tolist()


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_loss_equals_sums_over_tokens_and_vocabulary(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(5, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.tensor([0, 10, 3, 3, 7])
    losses = []
    for row, soft, target in zip(logits.tolist(), teacher.tolist(), targets.tolist(), strict=True):
        total, soft_total = math.fsum(map(math.exp, row)), math.fsum(map(math.exp, soft))
        logs = [value - math.log(total) for value in row]
        distilled = -math.fsum(math.exp(value) / soft_total * log for value, log in zip(soft, logs, strict=True))
        losses.append(-(1 - alpha) * logs[target] + alpha * distilled)
    found = masked_language_loss(logits, targets, teacher, alpha)
    assert float(found) == pytest.approx(math.fsum(losses) / 5, abs=1e-12)
    if not alpha:
        assert float(masked_language_loss(logits, targets)) == pytest.approx(float(found), abs=1e-12)
