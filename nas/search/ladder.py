"""Who is promoted: scores of one stage decide who enters the next, and are never mixed with another's.

Everyone is scored with inherited weights; the promising are trained for a while; the best of those in full.
"""

import math
from collections.abc import Collection, Sequence

from nas.config import SearchConfig
from nas.results import Result


def ranked(results: Sequence[Result]) -> list[Result]:
    """Best first; of equal scores the earlier candidate first."""
    return sorted(results, key=lambda result: (-result.score, result.trial))


def next_training(
    search: SearchConfig, *, scored: Sequence[Result], taken: Collection[int], is_complete: bool
) -> Result | None:
    """The candidate to be trained for a while next, or None while nobody is due.

    Of every `round_size` scored candidates `training_share` are due: the best of all that were not taken before.

    Args:
        search: The rules.
        scored: Inherited scores so far.
        taken: Numbers of candidates that were trained, are being trained, or failed to train.
        is_complete: Nobody else will be scored, so a last incomplete round counts.
    """
    rounds = len(scored) / search.round_size
    due = round(search.round_size * search.training_share * (rounds if is_complete else math.floor(rounds)))
    if len(taken) >= due:
        return None
    return next((result for result in ranked(scored) if result.trial not in taken), None)


def promotion_order(*, scored: Sequence[Result], trained: Sequence[Result]) -> list[Result]:
    """Who is to be trained in full, first to last: by trained score, and after those the rest by inherited score."""
    known = {result.trial for result in trained}
    return [*ranked(trained), *(result for result in ranked(scored) if result.trial not in known)]
