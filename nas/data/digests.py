"""Digests of the content of files, kept between starts with the size and modification time that they belong to.

Content identifies the data of a search, not its place, and not its times. Hashing a large data set takes minutes, so an
index in the cache directory has the digest of every file; only files whose size or modification time differs are hashed
again. It only saves time: without it, or where it is damaged, files are hashed. Digests are against accidents, not
against someone who forges them.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nas.common.boundary import check_regular_file, reading
from nas.common.errors import NasError
from nas.common.files import replace_atomically
from nas.data.images import ImageSource

_FORMAT = 2
_BATCH = 256
_SETTLED_NS = 2_000_000_000
"""The time after which a change of a file has another modification time on every file system."""

_Entry = tuple[str, str]
"""The size and modification time of a file, and its digest."""

OnProgress = Callable[[int, int], None]
"""Receives the numbers of files hashed and to hash."""


def _no_progress(done: int, total: int) -> None:
    del done, total


class DigestIndex:
    """The index of the files at one place.

    Args:
        cache_directory: The cache.
        place: The folder or file that the names of the index belong to.
        verify: Whether to trust no digest of an earlier start.
    """

    def __init__(self, cache_directory: Path, place: Path, *, verify: bool = False) -> None:
        name = hashlib.sha256(str(place.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._path = cache_directory / "contents" / f"{name}.jsonl"
        self._place = str(place)
        self._known = self._read()
        self._verifies = verify
        self._settled_before = time.time_ns() - _SETTLED_NS
        self._is_changed = False

    def _read(self) -> dict[str, _Entry]:
        # Line by line, since the text of the index of a million files is much larger than what is kept of it.
        expected = "an index of digests"
        try:
            check_regular_file(self._path, expected=expected, error=NasError)
            with reading(self._path, expected=expected), self._path.open(encoding="ascii") as file:
                if json.loads(next(file))["format"] != _FORMAT:
                    return {}
                entries = (json.loads(line) for line in file)
                return {str(name): (str(stamp), str(digest)) for name, stamp, digest in entries}
        except NasError:
            return {}

    def get(self, name: str, stamp: str) -> str | None:
        """Return the digest of a file; None if it has to be hashed.

        Args:
            name: The name of the file in the index.
            stamp: Its size and modification time, as passed to `put`.
        """
        known = None if self._verifies else self._known.get(name)
        return known[1] if known is not None and known[0] == stamp else None

    def put(self, name: str, stamp: str, digest: str, modified_ns: int) -> None:
        """Add the digest of a file, unless it was modified just now and could change again with the same time.

        Args:
            name: The name of the file.
            stamp: Its size and modification time, taken before it was hashed.
            digest: The digest of its content.
            modified_ns: The modification time alone, in nanoseconds; 0 if the stamp contains none.
        """
        if modified_ns >= self._settled_before:
            return
        self._known[name] = (stamp, digest)
        self._is_changed = True

    def save(self) -> None:
        """Write the index if it has changed; a cache that cannot be written only costs time."""
        if not self._is_changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(self._path) as temporary, temporary.open("w", encoding="ascii") as file:
                file.write(json.dumps({"format": _FORMAT, "place": self._place}) + "\n")
                file.writelines(json.dumps([name, *entry]) + "\n" for name, entry in self._known.items())
        except OSError:
            return
        self._is_changed = False


def image_digests(
    images: ImageSource,
    names: Iterable[str],
    cache_directory: Path | None,
    *,
    verify: bool = False,
    on_progress: OnProgress = _no_progress,
) -> dict[str, str | None]:
    """Return the digest of the content of every image, None for those that are missing or cannot be read.

    Args:
        images: The image source.
        names: Paths of the images within the source; each may occur several times.
        cache_directory: The cache that holds the index; None to hash all files.
        verify: Whether to hash all files, whatever their times.
        on_progress: Callback that is called only if files are hashed.
    """
    index = None if cache_directory is None else DigestIndex(cache_directory, images.location, verify=verify)
    digests: dict[str, str | None] = {}
    unknown: list[tuple[str, str]] = []
    for name in names:
        if name in digests:
            continue
        stamp = images.fingerprint(name)
        digests[name] = None if index is None or stamp is None else index.get(name, stamp)
        if stamp is not None and digests[name] is None:
            unknown.append((name, stamp))
    if not unknown:
        return digests
    batches = [unknown[start : start + _BATCH] for start in range(0, len(unknown), _BATCH)]
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch, found in zip(batches, pool.map(lambda batch: _hashed(images, batch), batches), strict=True):
            for (name, stamp), digest in zip(batch, found, strict=True):
                digests[name] = digest
                if digest is not None and index is not None:
                    index.put(name, stamp, digest, images.modified_ns(name))
            done += len(batch)
            on_progress(done, len(unknown))
    if index is not None:
        index.save()
    return digests


def _hashed(images: ImageSource, batch: Sequence[tuple[str, str]]) -> list[str | None]:
    return [images.digest(name) for name, _ in batch]
