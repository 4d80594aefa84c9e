"""A ZIP file of any number of images, with 42 bytes and a name for each, shared by all that open the file.

`zipfile` itself keeps an object for every entry: with dictionaries of the names, a million entries take 1.2 GB. Here
the directory is an array, in which entries are found by checksums of their names in normal form.
"""

import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import numpy as np

from nas.data.image_names import loose_name, normal_name

_UTF8_NAME = 0x800
_FIELDS = np.dtype(
    [("header", "u8"), ("compressed", "u8"), ("size", "u8"), ("crc", "u4"), ("method", "u2"), ("flags", "u2")]
)


class Archive:
    """The files in a ZIP archive, without its folders. Safe for several threads.

    Args:
        path: The ZIP file.

    Raises:
        Exception: Nearly any, if the file is not a ZIP archive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = zipfile.ZipFile(path)
        entries = [entry for entry in self._file.infolist() if not entry.is_dir()]
        names = [_encoded(entry.orig_filename) for entry in entries]
        self._names = b"".join(names)
        self._stops = np.cumsum([0, *map(len, names)], dtype=np.int64)
        self._fields = np.array([_fields_of(entry) for entry in entries], dtype=_FIELDS)
        # Names with several spellings have several keys. Equal keys stay in the order of the archive.
        keys = [(key, number) for number, entry in enumerate(entries) for key in _keys_of(entry)]
        found = np.array(keys, dtype=np.uint32).reshape(-1, 2)
        found = found[np.argsort(found[:, 0], kind="stable")]
        self._keys, self._numbers = found[:, 0].copy(), found[:, 1].copy()
        # What `zipfile` keeps of every entry; `open` gets an entry that was made for it.
        self._file.filelist.clear()
        self._file.NameToInfo.clear()

    def reopen(self) -> None:
        """Open the file once more: a forked process shares the place in it with its parent, which reads elsewhere."""
        self._file.fp = open(self._path, "rb")  # noqa: SIM115 (as long as the archive)

    def find(self, name: str) -> str | None:
        """Return the name in the archive; None if there is none, or if several differ only in their spelling.

        Args:
            name: The name, in any spelling; see `nas.data.image_names`.
        """
        found = {entry.filename for entry in self._candidates(name)}
        if name in found:
            return name
        return found.pop() if len(found) == 1 else None

    def entries(self, name: str) -> Sequence[zipfile.ZipInfo]:
        """Return the entries of the name that `find` finds: several if the archive has it several times."""
        candidates = list(self._candidates(name))
        exact = [entry for entry in candidates if entry.filename == name]
        return exact or (candidates if len({entry.filename for entry in candidates}) == 1 else [])

    def open(self, entry: zipfile.ZipInfo) -> IO[bytes]:
        """Open an entry that `entries` returned.

        Raises:
            Exception: Nearly any, if it is damaged.
        """
        return self._file.open(entry)

    def hint(self, name: str) -> str:
        """Return what could be meant by a name that is not found; empty if nothing is near. Looks at all names."""
        wanted, normal = loose_name(name), normal_name(name)
        names = [self._info(number).filename for number in range(len(self._fields))]
        for entry in names:
            if loose_name(entry) == wanted:
                return f"the archive has {entry!r}"
        for entry in sorted(names):
            other = normal_name(entry)
            if other.endswith(f"/{normal}") or normal.endswith(f"/{other}"):
                return f"the archive has {entry!r}"
        return ""

    def _candidates(self, name: str) -> Iterator[zipfile.ZipInfo]:
        """Yield the entries that have a name in one of their spellings, in the order of the archive."""
        normal = normal_name(name)
        key = np.uint32(_key(normal))  # of the type of the keys, which would be converted otherwise
        start, stop = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for number in self._numbers[start:stop].tolist():
            entry = self._info(number)
            if any(normal_name(spelling) == normal for spelling in _spellings(entry)):
                yield entry

    def _info(self, number: int) -> zipfile.ZipInfo:
        content = self._names[self._stops[number] : self._stops[number + 1]]
        entry = zipfile.ZipInfo(content.decode("utf-8", "surrogatepass"))
        header, compressed, size, crc, method, flags = self._fields[number].item()
        entry.header_offset, entry.compress_size, entry.file_size = header, compressed, size
        entry.CRC, entry.compress_type, entry.flag_bits = crc, method, flags
        return entry


_archives: WeakValueDictionary[tuple[str, int, int, int], Archive] = WeakValueDictionary()
_lock = threading.Lock()


def open_archive(path: Path) -> Archive:
    """Return the archive at a path: the one that is open already, if the file has not changed.

    Raises:
        Exception: Nearly any, if the file is not a ZIP archive.
    """
    status = path.stat()
    key = (str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns)
    with _lock:
        archive = _archives.get(key)
        if archive is None:
            archive = _archives[key] = Archive(path)
        return archive


def reopen_archives() -> None:
    """Open all archives once more, in a process that was forked."""
    for archive in list(_archives.values()):
        archive.reopen()


def _fields_of(entry: zipfile.ZipInfo) -> tuple[int, ...]:
    return (
        entry.header_offset,
        entry.compress_size,
        entry.file_size,
        entry.CRC,
        entry.compress_type,
        entry.flag_bits,
    )


def _keys_of(entry: zipfile.ZipInfo) -> set[int]:
    return {_key(normal_name(spelling)) for spelling in _spellings(entry)}


def _key(normal: str) -> int:
    return zlib.crc32(_encoded(normal))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _spellings(entry: zipfile.ZipInfo) -> Sequence[str]:
    """Return the name of an entry; also read as UTF-8 where the archive does not say that it is, as macOS writes it."""
    name = entry.filename
    if entry.flag_bits & _UTF8_NAME or name.isascii():
        return (name,)
    try:
        return (name, name.encode("cp437").decode())
    except UnicodeError:
        return (name,)
