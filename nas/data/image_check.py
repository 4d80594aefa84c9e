"""Find unreadable images before anything is computed, and cache the outcome for the next start."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from nas.common.files import write_atomically
from nas.data.images import ImageSource


def find_unreadable_images(
    images: ImageSource,
    digests: Mapping[str, str | None],
    cache_directory: Path,
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Return the names of the images that are missing or cannot be decoded.

    Every image is decoded once: the outcome is cached under a hash of the names and contents of all images, so that
    resuming a search on a large data set, also at another place, does not decode all images again. Unreadable images
    are checked again, since the cause (permissions, a server, a codec) may disappear without a change of the file.

    Args:
        images: The image source.
        digests: The paths of the images within the source and the digests of their content; see `image_digests`.
        cache_directory: The cache for the outcome.
        on_progress: Callback that receives the numbers of images done and in total; not called if the outcome is
            cached.
    """
    digest = hashlib.sha256()
    for name, content in digests.items():
        digest.update(f"\0{name}\0{content}".encode())
    path = cache_directory / "images" / f"{digest.hexdigest()[:32]}.json"
    names = list(digests)
    try:
        known: list[str] = json.loads(path.read_text(encoding="utf-8"))["unreadable"]
    except (OSError, ValueError, KeyError, TypeError):
        known = images.find_unreadable(names, on_progress)
    else:
        return images.find_unreadable(known)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"unreadable": known}).encode())
    except OSError:
        pass  # the cache only saves time; the feature cache reports an unwritable folder
    return known
