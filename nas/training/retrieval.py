"""Image-text retrieval: the ranks of all pictures and texts of a split, exactly, and the metrics that they give.

The gallery are the distinct items of a split. A picture is a query among all texts and a text one among all pictures.
Every item that a row joins with a query is right, and the rank of a query is that of its best right item: 1 and the
number of wrong items that score as high or higher. So ties count against a model, and one that gives all pairs one
score ranks every query last.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.pairs import compact

RECALL_COUNTS = (1, 5, 10)
_VALUE_BITS, _LAST_PLACE = 2**31 - 1, 2**32 - 1
BLOCK_SCORES = 2**22
"""The number of scores of a block, which are 8 bytes each."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of all queries in their galleries, the argument of every metric of retrieval.

    Args:
        images: The rank of the best right text of each picture, from 1, (I,).
        texts: The rank of the best right picture of each text, from 1, (T,).
        pictures: The picture of each text, of several the first, (T,).
    """

    images: NDArray[np.int64]
    texts: NDArray[np.int64]
    pictures: NDArray[np.int64]

    def drawn(self, counts: NDArray[np.int64]) -> "Ranks":
        """Return the ranks of some pictures and of their texts, each as often as it is counted, in the same galleries.

        Args:
            counts: The number of times that each picture counts, (I,).
        """
        times = counts[self.pictures]
        return Ranks(np.repeat(self.images, counts), np.repeat(self.texts, times), np.repeat(self.pictures, times))


def ranks_of(outputs: Tensor, items: Tensor, *, block_scores: int = BLOCK_SCORES) -> Ranks:
    """Return the ranks of all queries.

    Equal scores are equal in whatever blocks they are computed: products of float32 numbers are exact in float64, and
    their sums are rounded to float32.

    Args:
        outputs: The embedding of each row's picture and behind it that of its text, (N, 2E). Of rows with an equal
            item, the embedding of the first one counts.
        items: The items of the rows, int64, (N, 2).
        block_scores: The largest number of scores in memory, at least as many as there are items; the ranks do not
            depend on it.
    """
    numbers = compact(items.numpy())
    size = outputs.shape[1] // 2
    firsts = [np.unique(column, return_index=True)[1] for column in numbers.T]
    images, texts = (
        embeddings[torch.from_numpy(rows)].double()
        for rows, embeddings in zip(firsts, outputs.split(size, dim=1), strict=True)
    )
    return Ranks(
        _ranks(images, texts, numbers, block_scores),
        _ranks(texts, images, numbers[:, ::-1], block_scores),
        pictures=numbers[firsts[1], 0],
    )


def _ranks(queries: Tensor, gallery: Tensor, pairs: NDArray[np.int64], block_scores: int) -> NDArray[np.int64]:
    """Return the rank of each query.

    Args:
        queries: The embeddings of the queries, float64, (Q, E).
        gallery: Those of the gallery, float64, (G, E).
        pairs: The right item of the gallery (second) of each query (first), of every row.
        block_scores: The largest number of scores in memory.
    """
    pairs = np.unique(pairs, axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(queries) + 1))
    rows = max(block_scores // max(len(gallery), 1), 1)
    found = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), rows):
        stop = min(start + rows, len(queries))
        scores = (queries[start:stop] @ gallery.T).float()
        chosen = pairs[starts[start] : starts[stop]]
        query, right = torch.from_numpy(chosen[:, 0] - start), torch.from_numpy(np.ascontiguousarray(chosen[:, 1]))
        of_right = scores[query, right]
        best = torch.full((stop - start,), -torch.inf).scatter_reduce(0, query, of_right, "amax")
        scores[query, right] = -torch.inf
        found[start:stop] = 1 + (scores >= best[:, None]).sum(dim=1).numpy()
    return found


def best_items(queries: Tensor, gallery: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return the items of a gallery that score highest, the best first; of equal scores the earlier item.

    Args:
        queries: The embeddings of the queries, float32 numbers as float64, (Q, E).
        gallery: Those of the items, likewise, block by block, (B, E); the outcome does not depend on the blocks.
        count: The number of items; fewer in a smaller gallery.

    Returns:
        The scores, float32, and the numbers of the items, int64, both (Q, count).
    """
    kept, start = torch.empty(len(queries), 0, dtype=torch.int64), 0
    for block in gallery:
        # Of 64 bits, the upper half orders scores as the bits of a float32 do, and the lower half earlier items first.
        bits = ((queries @ block.T).float() + 0.0).view(torch.int32)  # + 0.0: one zero has one pattern
        ordered = torch.where(bits < 0, bits ^ _VALUE_BITS, bits).long()
        places = _LAST_PLACE - torch.arange(start, start + len(block))
        keys = torch.cat([kept, (ordered << 32) | places], dim=1)
        kept, start = keys.topk(min(count, keys.shape[1]), dim=1).values, start + len(block)
    ordered = (kept >> 32).int()
    scores = torch.where(ordered < 0, ordered ^ _VALUE_BITS, ordered).view(torch.float32)
    return scores, _LAST_PLACE - (kept & _LAST_PLACE)


def _recall(ranks: NDArray[np.int64], count: int) -> float:
    return float((ranks <= count).mean())


def image_to_text_recall_at_1(ranks: Ranks) -> float:
    """Return the share of pictures with a right text in the first place."""
    return _recall(ranks.images, 1)


def image_to_text_recall_at_5(ranks: Ranks) -> float:
    """Return the share of pictures with a right text among the first 5."""
    return _recall(ranks.images, 5)


def image_to_text_recall_at_10(ranks: Ranks) -> float:
    """Return the share of pictures with a right text among the first 10."""
    return _recall(ranks.images, 10)


def text_to_image_recall_at_1(ranks: Ranks) -> float:
    """Return the share of texts with a right picture in the first place."""
    return _recall(ranks.texts, 1)


def text_to_image_recall_at_5(ranks: Ranks) -> float:
    """Return the share of texts with a right picture among the first 5."""
    return _recall(ranks.texts, 5)


def text_to_image_recall_at_10(ranks: Ranks) -> float:
    """Return the share of texts with a right picture among the first 10."""
    return _recall(ranks.texts, 10)


def mean_recall(ranks: Ranks) -> float:
    """Return the mean of the recalls at 1, 5 and 10 in both directions."""
    found = [_recall(side, count) for side in (ranks.images, ranks.texts) for count in RECALL_COUNTS]
    return float(np.mean(found))


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Return the mean of 1 / rank over the queries of each direction, then over both: less coarse than a recall."""
    return float(np.mean([(1 / side).mean() for side in (ranks.images, ranks.texts)]))
