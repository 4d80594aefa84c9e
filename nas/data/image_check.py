"""Which images cannot be read, found before anything is computed, and remembered for the next start."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from nas.common.files import write_atomically
from nas.data.images import ImageSource


def find_unreadable(
    images: ImageSource, names: Sequence[str], cache_directory: Path, on_progress: Callable[[int, int], None]
) -> list[str]:
    """Those of the named images that are missing or cannot be decoded.

    Every image is decoded, once: the outcome is kept in the cache under a hash of the images' names and fingerprints,
    so that going on with a search of a large data set does not decode all of it again. Those that could not be read are
    looked at again, since why (rights, a server, a codec) may be gone without a change of the file.

    Args:
        images: Where they lie.
        names: As the manifest has them.
        cache_directory: Keeps the outcome.
        on_progress: Told images done and images in all; not at all when the outcome is known.
    """
    digest = hashlib.sha256(str(images.location.resolve()).encode())
    for name in names:
        digest.update(f"\0{name}\0{images.fingerprint(name)}".encode())
    path = cache_directory / "images" / f"{digest.hexdigest()[:32]}.json"
    try:
        known: list[str] = json.loads(path.read_text(encoding="utf-8"))["unreadable"]
    except (OSError, ValueError, KeyError, TypeError):
        known = images.unreadable(names, on_progress)
    else:
        return images.unreadable(known)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"unreadable": known}).encode())
    except OSError:
        pass  # it is only sparing time; whether the cache can be written to is said where it has to be
    return known
