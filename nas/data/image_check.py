"""Find unreadable images before anything is computed, and cache the outcome for the next start."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nas.common.errors import DataError
from nas.common.files import write_atomically
from nas.data.image_places import place_hint
from nas.data.images import ImageSource
from nas.data.samples import Dataset, shortened_list

_SKIPPABLE_FRACTION = 0.1
"""Where more images are unreadable, their place or their names are wrong, and skipping them is no remedy."""


class ImageCheck(NamedTuple):
    """The outcome of decoding every image once.

    Args:
        unreadable: The names of the images that are missing or cannot be decoded.
        notes: What was changed in some of the others, one line for each change.
    """

    unreadable: list[str]
    notes: list[str]


def check_images(
    images: ImageSource,
    digests: Mapping[str, str | None],
    cache_directory: Path,
    on_progress: Callable[[int, int], None],
) -> ImageCheck:
    """Decode every image, or return the cached outcome.

    The outcome is cached under a hash of the names and contents of all images, so that resuming a search on a large
    data set, also at another place, does not decode all images again. Unreadable images are checked again, since the
    cause (permissions, a server, a codec) may disappear without a change of the file.

    Args:
        images: The image source.
        digests: The paths of the images within the source and the digests of their content; see `image_digests`.
        cache_directory: The cache for the outcome.
        on_progress: Callback that receives the numbers of images done and in total; not called if the outcome is
            cached.
    """
    digest = hashlib.sha256(str(images.max_pixels).encode())
    for name, content in digests.items():
        digest.update(f"\0{name}\0{content}".encode())
    path = cache_directory / "images" / f"{digest.hexdigest()[:32]}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = ImageCheck(list(values["unreadable"]), list(values["notes"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = ImageCheck(images.find_unreadable(list(digests), on_progress), image_notes(images))
    else:
        return known._replace(unreadable=images.find_unreadable(known.unreadable))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known._asdict()).encode())
    except OSError:
        pass  # the cache only saves time; the feature cache reports an unwritable folder
    return known


def image_notes(images: ImageSource) -> list[str]:
    """Return one line for each kind of change in the images that were read so far."""
    return [
        f"{len(names)} images {change}: {shortened_list(sorted(names))}"
        for change, names in sorted(images.changes.items())
    ]


def without_unreadable(
    dataset: Dataset, images: ImageSource, unreadable: Sequence[str], *, skip: bool
) -> tuple[Dataset, list[str]]:
    """Return a data set without the samples whose image cannot be read, and lines that name the images.

    Args:
        dataset: The data set.
        images: The source of its images.
        unreadable: The images that cannot be read.
        skip: Whether the configuration allows to skip them.

    Raises:
        DataError: If it does not, or no sample of a split is left.
    """
    if not unreadable:
        return dataset, []
    missing = set(unreadable)
    total = len({name for samples in dataset.splits.values() for name in samples.images})
    first = min(missing)
    listed = (
        f"{len(missing)} of {total} images are missing or cannot be read: {shortened_list(sorted(missing))} (the "
        f"first: {images.read_error(first)})"
    )
    if not skip:
        few = len(missing) <= max(_SKIPPABLE_FRACTION * total, 1) and len(missing) < total
        hint = "; set data.skip_unreadable_images: true to skip them" if few else ""
        if len(missing) == total:
            hint = place_hint(images.location, sorted(missing))
        raise DataError(f"{images.location}: {listed}{hint}")
    kept = replace(dataset, splits={name: samples.without(missing) for name, samples in dataset.splits.items()})
    for name, samples in kept.splits.items():
        if not len(samples):
            raise DataError(
                f"{images.location}: the {name} split has no readable image; expected at least one; {listed}"
            )
    return kept, [f"Skipped: {listed}"]
