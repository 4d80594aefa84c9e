"""Splits for data sets that have none, or no validation: seeded, with the shares of all classes kept."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence

from nas.common.errors import DataError
from nas.config.schema import HeldOutConfig
from nas.data.dataset import Sample
from nas.data.duplicates import CopiesAmong, no_copies


def complete(
    source: str,
    splits: Mapping[str, Sequence[Sample]],
    held_out: HeldOutConfig,
    wanted: Collection[str],
    copies_among: CopiesAmong = no_copies,
) -> dict[str, list[Sample]]:
    """Splits with those that are missing taken from train, as the search file says.

    Args:
        source: Of the samples, for messages.
        splits: As they are distributed; without a split of their own, all in train.
        held_out: How much of train to take.
        wanted: Where they are all there, and train is none of them, nothing is taken.
        copies_among: Finds images that are copies of others → those.

    Raises:
        DataError: If that leaves nothing to train with.
    """
    whole = {name: list(samples) for name, samples in splits.items()}
    if "train" not in wanted and all(whole.get(name) for name in wanted):
        return whole
    train = whole.get("train", [])
    amounts = {"test": held_out.test, "validation": held_out.validation}
    taken = {name: amount for name, amount in amounts.items() if amount and train and not whole.get(name)}
    copies = copies_among(train) if taken else {}
    image_count = len(_images(train, copies))
    for name, amount in taken.items():
        count = round(amount * image_count) if amount < 1 else int(amount)
        left = len(_images(train, copies))
        if count >= left:
            raise DataError(f"{source}: data.held_out.{name} takes {count} images of {left} in train; expected fewer")
        train, whole[name] = _held_out(train, copies, count, held_out.seed)
    return {**whole, "train": train}


def _images(samples: Sequence[Sample], copies: Mapping[str, str]) -> set[str]:
    return {copies.get(sample.image, sample.image) for sample in samples}


def _held_out(
    samples: Sequence[Sample], copies: Mapping[str, str], count: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Samples that stay, and those of `count` images.

    Samples of one image go together, or what is learned of it in one split would be asked in the other.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[copies.get(sample.image, sample.image)].append(sample)
    images = list(groups)
    counts = Counter(label for sample in samples for label in sample.labels)
    # Of several labels the rarest: it is the one that a split could lack.
    strata = [min(groups[image][0].labels, key=lambda label: (counts[label], label), default="") for image in images]
    chosen = stratified(strata, count, seed)
    away = {images[position] for position in chosen}
    stay = [sample for sample in samples if copies.get(sample.image, sample.image) not in away]
    return stay, [sample for sample in samples if copies.get(sample.image, sample.image) in away]


def stratified(strata: Sequence[Hashable], count: int, seed: int) -> set[int]:
    """Positions of `count` items, of every stratum as many as its share, to within one, but never all of it.

    What small strata cannot give for that, larger ones give beyond their share.

    Args:
        strata: Of every item, (N,).
        count: Fewer are taken where every stratum has but one item left.
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
    missing = count - sum(taken.values())
    while missing and (free := [stratum for stratum in order if taken[stratum] < len(members[stratum]) - 1]):
        for stratum in free[:missing]:
            taken[stratum] += 1
        missing = count - sum(taken.values())
    return {position for stratum in members for position in rng.sample(members[stratum], taken[stratum])}
