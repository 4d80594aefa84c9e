"""Hold out missing splits from train: seeded, and stratified by class."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence

from nas.common.errors import DataError
from nas.config.data_schema import HeldOutConfig
from nas.data.duplicates import FindDuplicates, find_no_duplicates
from nas.data.samples import RawSample


def hold_out_missing_splits(
    source: str,
    splits: Mapping[str, Sequence[RawSample]],
    held_out: HeldOutConfig,
    requested: Collection[str],
    find_duplicates: FindDuplicates = find_no_duplicates,
) -> dict[str, list[RawSample]]:
    """Take the splits that a data set lacks from train, in the amounts of the search file.

    Args:
        source: Source of the samples, for messages.
        splits: The splits as they are distributed; all samples are in train if the data set has no splits.
        held_out: The amounts to take from train, as fractions of its images or numbers of images.
        requested: The splits that the caller needs. If the data set has them all, and train is not among them, nothing
            is taken.
        find_duplicates: Finds images that are copies of others; copies stay in one split.

    Returns:
        All splits, with the missing ones filled.

    Raises:
        DataError: If nothing would remain in train.
    """
    result = {name: list(samples) for name, samples in splits.items()}
    if "train" not in requested and all(result.get(name) for name in requested):
        return result
    train = result.get("train", [])
    amounts = {"test": held_out.test, "validation": held_out.validation}
    missing = {name: amount for name, amount in amounts.items() if amount and train and not result.get(name)}
    duplicates = find_duplicates(train) if missing else {}
    image_count = len(_distinct_images(train, duplicates))
    for name, amount in missing.items():
        count = round(amount * image_count) if amount < 1 else int(amount)
        remaining = len(_distinct_images(train, duplicates))
        if count >= remaining:
            raise DataError(
                f"{source}: data.held_out.{name} takes too many images from train; expected fewer than {remaining}, "
                f"got {count}"
            )
        train, result[name] = _hold_out(train, duplicates, count, held_out.seed)
    return {**result, "train": train}


def _distinct_images(samples: Sequence[RawSample], duplicates: Mapping[str, str]) -> set[str]:
    return {duplicates.get(sample.image, sample.image) for sample in samples}


def _hold_out(
    samples: Sequence[RawSample], duplicates: Mapping[str, str], count: int, seed: int
) -> tuple[list[RawSample], list[RawSample]]:
    """Split off the samples of `count` images.

    All samples of an image stay together; otherwise a model would be evaluated on images it was trained on.

    Returns:
        The samples that remain and the samples that are held out.
    """
    groups: dict[str, list[RawSample]] = defaultdict(list)
    for sample in samples:
        groups[duplicates.get(sample.image, sample.image)].append(sample)
    images = list(groups)
    counts = Counter(label for sample in samples for label in sample.labels)
    # The stratum of a multi-label sample is its rarest label: it is the one that a split could lack.
    strata = [min(groups[image][0].labels, key=lambda label: (counts[label], label), default="") for image in images]
    chosen = stratified_sample(strata, count, seed)
    held_out = {images[position] for position in chosen}
    remaining = [sample for sample in samples if duplicates.get(sample.image, sample.image) not in held_out]
    return remaining, [sample for sample in samples if duplicates.get(sample.image, sample.image) in held_out]


def stratified_sample(strata: Sequence[Hashable], count: int, seed: int) -> set[int]:
    """Draw the positions of `count` items, from every stratum in proportion to its size, to within one item.

    No stratum is taken as a whole. What small strata cannot provide for that reason is drawn from larger ones.

    Args:
        strata: The stratum of every item, (N,).
        count: The number of items; fewer are drawn if every stratum has only one item left.
        seed: Seed of the draw.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, stratum in enumerate(strata):
        members[stratum].append(position)
    rng = random.Random(seed)
    exact = {stratum: count * len(positions) / len(strata) for stratum, positions in members.items()}
    taken = {stratum: int(share) for stratum, share in exact.items()}
    order = list(members)
    rng.shuffle(order)  # so that among equal remainders the first strata are not always preferred
    order.sort(key=lambda stratum: taken[stratum] - exact[stratum])
    missing = count - sum(taken.values())
    while missing and (free := [stratum for stratum in order if taken[stratum] < len(members[stratum]) - 1]):
        for stratum in free[:missing]:
            taken[stratum] += 1
        missing = count - sum(taken.values())
    return {position for stratum in members for position in rng.sample(members[stratum], taken[stratum])}
