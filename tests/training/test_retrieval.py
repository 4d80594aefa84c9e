"""Ranks and recalls of retrieval against an independent slow computation."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nas.training.metrics import evaluate_logits
from nas.training.retrieval import best_items, mean_recall, mean_reciprocal_rank, ranks_of
from nas.training.seed_scores import seed_scores

Matrix = NDArray[np.float64]
Truths = NDArray[np.bool_]


def slow_ranks(scores: Matrix, right: Truths) -> list[int]:
    """Return 1 plus the number of wrong items that are not below the best right one, for each row."""
    found = []
    for row, is_right in zip(scores, right, strict=True):
        best = max(score for score, good in zip(row, is_right, strict=True) if good)
        found.append(1 + sum(score >= best for score, good in zip(row, is_right, strict=True) if not good))
    return found


def random_pairs(seed: int) -> tuple[torch.Tensor, torch.Tensor, Matrix, Truths]:
    """Return outputs and items with repeated pictures and texts, and the scores and partners of the distinct items.

    The embeddings have few different values, so that many scores are equal.
    """
    rng = np.random.default_rng(seed)
    images, texts, rows = 7, 9, 30
    sides = [rng.integers(-1, 2, size=(count, 3)).astype(np.float32) for count in (images, texts)]
    items = np.stack([rng.integers(images, size=rows), rng.integers(texts, size=rows)], axis=1)
    items = np.concatenate([items, [(index % images, index) for index in range(texts)]])
    right: Truths = np.zeros((images, texts), dtype=np.bool_)
    right[items[:, 0], items[:, 1]] = True
    outputs = np.concatenate([sides[0][items[:, 0]], sides[1][items[:, 1]]], axis=1)
    # The numbers of items have gaps, as those of a part of a data set.
    scores: Matrix = (sides[0] @ sides[1].T).astype(np.float64)
    return torch.from_numpy(outputs), torch.from_numpy(3 * items + 1), scores, right


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_slow_computation_with_ties_and_several_partners(seed: int) -> None:
    outputs, items, scores, right = random_pairs(seed)
    assert right.sum(axis=1).max() > 1 and right.sum(axis=0).max() > 1
    ranks = ranks_of(outputs, items)
    assert ranks.images.tolist() == slow_ranks(scores, right)
    assert ranks.texts.tolist() == slow_ranks(scores.T, right.T)


@pytest.mark.parametrize("block_scores", [1, 10, 25, 10_000])
def test_ranks_do_not_depend_on_the_blocks(block_scores: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(40, 64, generator=generator)
    outputs[20:] = outputs[:20]  # equal embeddings of different items
    items = torch.arange(40)[:, None].expand(-1, 2)
    whole, blocks = ranks_of(outputs, items), ranks_of(outputs, items, block_scores=block_scores)
    assert whole.images.tolist() == blocks.images.tolist() and whole.texts.tolist() == blocks.texts.tolist()
    assert whole.images.min() >= 2, "the equal item ties"


def test_a_constant_model_ranks_every_query_last() -> None:
    items = torch.arange(20)[:, None].expand(-1, 2)
    outputs = torch.full((20, 7 * 2), 7**-0.5)
    ranks = ranks_of(outputs, items)
    assert set(ranks.images) == set(ranks.texts) == {20}
    assert mean_recall(ranks) == 0.0


def test_recalls_of_known_ranks() -> None:
    # Picture i has the text i. The embedding of text 1 is that of text 0, so that both pictures tie.
    embeddings = torch.eye(12)
    texts = embeddings.clone()
    texts[1] = embeddings[0]
    items = torch.arange(12)[:, None].expand(-1, 2)
    found = evaluate_logits(torch.cat([embeddings, texts], dim=1), items)
    # Picture 0 is right but ties with text 1; picture 1 scores all texts 0; text 1 scores picture 0 above its own.
    assert found["image_to_text_recall_at_1"] == pytest.approx(10 / 12)
    assert found["image_to_text_recall_at_5"] == pytest.approx(11 / 12)
    assert found["image_to_text_recall_at_10"] == pytest.approx(11 / 12)
    assert found["text_to_image_recall_at_1"] == pytest.approx(11 / 12)
    assert found["text_to_image_recall_at_10"] == pytest.approx(11 / 12)
    assert found["mean_recall"] == pytest.approx((10 + 11 * 5) / 72)
    assert found["mean_reciprocal_rank"] == pytest.approx(((10 + 1 / 2 + 1 / 12) + (11 + 1 / 12)) / 24)
    assert len(found) == 8, "no metric of a classifier"


def test_scores_of_a_race_are_over_draws_of_pictures_with_their_texts() -> None:
    rng = np.random.default_rng(0)
    count = 300
    pictures = rng.normal(size=(count, 4))
    texts = pictures + rng.normal(size=(count, 4))
    sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pictures, texts)]
    outputs, items = torch.from_numpy(np.concatenate(sides, axis=1)).float(), torch.arange(count)[:, None].expand(-1, 2)
    ranks = ranks_of(outputs, items)
    scores = seed_scores(outputs, items, "mean_reciprocal_rank")
    assert scores.values == pytest.approx([mean_reciprocal_rank(ranks)])
    # Every picture has one text: the variance is that of a mean over independent pictures.
    each = (1 / ranks.images + 1 / ranks.texts) / 2
    assert float((scores.effects**2).sum()) == pytest.approx(each.var(ddof=1) / count, rel=0.25)


def test_texts_are_drawn_with_their_first_picture() -> None:
    items = torch.tensor([[5, 3], [5, 4], [6, 4], [6, 8]])
    ranks = ranks_of(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), items)
    assert ranks.pictures.tolist() == [0, 0, 1]
    drawn = ranks.drawn(np.array([2, 0]))
    assert drawn.images.tolist() == [ranks.images[0]] * 2
    assert drawn.texts.tolist() == [ranks.texts[0]] * 2 + [ranks.texts[1]] * 2


@pytest.mark.parametrize("width", [1, 3, 20])
@pytest.mark.parametrize("count", [1, 4, 20])
def test_best_items_are_sorted_with_earlier_ones_first_whatever_the_blocks(width: int, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = (torch.randint(-1, 2, (6, 2), generator=generator) / 3).double()
    gallery = (torch.randint(-1, 2, (13, 2), generator=generator) / 7).double()  # with zeros of both signs, and ties
    scores, places = best_items(queries, gallery.split(width), count)
    expected = (queries @ gallery.T).float()
    for row, found, numbers in zip(expected.tolist(), scores.tolist(), places.tolist(), strict=True):
        assert numbers == [place for _, place in sorted((-score, place) for place, score in enumerate(row))][:count]
        assert found == [row[place] for place in numbers]
