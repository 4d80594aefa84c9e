"""Splits for data sets that have none, or no validation: seeded, with the shares of all classes kept."""

import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from nas.config import HeldOutConfig
from nas.data.samples import Sample
from nas.errors import DataError


def complete(source: str, splits: Mapping[str, Sequence[Sample]], held_out: HeldOutConfig) -> dict[str, list[Sample]]:
    """Splits with those that are missing taken from train, as the search file says.

    Args:
        source: Of the samples, for messages.
        splits: As they are distributed; without a split of their own, all in train.
        held_out: How much of train to take.

    Raises:
        DataError: If that leaves nothing to train with.
    """
    whole = {name: list(samples) for name, samples in splits.items()}
    train = whole.get("train", [])
    image_count = len({sample.image for sample in train})
    for name, amount in (("test", held_out.test), ("validation", held_out.validation)):
        if not whole.get(name) and amount and train:
            count = round(amount * image_count) if amount < 1 else int(amount)
            left = len({sample.image for sample in train})
            if count >= left:
                raise DataError(
                    f"{source}: data.held_out.{name} takes {count} images of {left} in train; expected fewer"
                )
            train, whole[name] = _held_out(train, count, held_out.seed)
    return {**whole, "train": train}


def _held_out(samples: Sequence[Sample], count: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples that stay, and those of `count` images.

    Samples of one image go together, or what is learned of it in one split would be asked in the other.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.image].append(sample)
    images = list(groups)
    chosen = stratified([groups[image][0].labels for image in images], count, seed)
    away = {images[position] for position in chosen}
    stay = [sample for sample in samples if sample.image not in away]
    return stay, [sample for sample in samples if sample.image in away]


def stratified(strata: Sequence[Hashable], count: int, seed: int) -> set[int]:
    """Positions of `count` items, of every stratum as many as its share, to within one.

    Args:
        strata: Of every item, (N,).
        count: At most N.
        seed: Decides which.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, stratum in enumerate(strata):
        members[stratum].append(position)
    rng = random.Random(seed)
    exact = {stratum: count * len(positions) / len(strata) for stratum, positions in members.items()}
    taken = {stratum: int(share) for stratum, share in exact.items()}
    order = list(members)
    rng.shuffle(order)  # so that of equal remainders not always the first ones get more
    order.sort(key=lambda stratum: taken[stratum] - exact[stratum])
    for stratum in order[: count - sum(taken.values())]:
        taken[stratum] += 1
    return {position for stratum in members for position in rng.sample(members[stratum], taken[stratum])}
