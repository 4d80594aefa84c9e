"""Write the arrays of a feature store, and read them back."""

import contextlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.features.plan import ArrayPlan

_READ_BYTES = 2**24


class ArrayFiles(contextlib.AbstractContextManager["ArrayFiles"]):
    """The arrays of a store, open for writing.

    They are not memory-mapped: a full disk would kill the process with SIGBUS instead of raising an error. Several
    threads may write.

    Args:
        directory: Folder of the store, with all files in their full size.
        arrays: The arrays in it.
    """

    def __init__(self, directory: Path, arrays: Sequence[ArrayPlan]) -> None:
        self._arrays = {array.name: array for array in arrays}
        self._descriptors: dict[str, int] = {}
        for name in self._arrays:
            self._descriptors[name] = os.open(directory / name, os.O_RDWR)

    def write(self, name: str, row: int, values: NDArray[np.generic]) -> None:
        """Write rows.

        Args:
            name: Name of the array.
            row: Index of the first row.
            values: The rows, in the element type of the array.
        """
        array = self._arrays[name]
        offset = len(array.header) + row * array.row_bytes
        rest = values.reshape(-1).view(np.uint8).data
        while rest:
            written = os.pwrite(self._descriptors[name], rest, offset)
            rest, offset = rest[written:], offset + written

    def checksum(self, name: str, row: int, size_bytes: int) -> int:
        """Return the CRC-32 of neighbouring rows as the file has them.

        Args:
            name: Name of the array.
            row: Index of the first row.
            size_bytes: Size of the rows.
        """
        array = self._arrays[name]
        offset, checksum = len(array.header) + row * array.row_bytes, 0
        stop = offset + size_bytes
        while offset < stop:
            content = os.pread(self._descriptors[name], min(_READ_BYTES, stop - offset), offset)
            if not content:
                break  # the file was truncated
            checksum, offset = zlib.crc32(content, checksum), offset + len(content)
        return checksum

    def sync(self) -> None:
        """Flush everything written so far to the disk (fsync)."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
