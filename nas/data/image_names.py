"""Find images under the names that a table gives them, although other systems write the same name differently.

Windows separates folders with a backslash, macOS stores accented letters in decomposed form, and some archivers store
UTF-8 names without saying so. A name is looked up as it is first, then in its normal form.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


def normal_name(name: str) -> str:
    """Return a name with `/` between its parts, without `.` parts, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def has_one_spelling(name: str) -> bool:
    """Return whether a name is spelt alike on all systems: ASCII, without backslashes."""
    return name.isascii() and "\\" not in name


def loose_name(name: str) -> str:
    """Return a name for hints: without differences in case and in blanks at the ends of its parts."""
    return "/".join(part.strip().casefold() for part in normal_name(name).split("/"))


def foreign_path_hint(name: str) -> str:
    """Return a hint for a name that can only be meant for another place; empty for others."""
    if _DRIVE.match(name):
        return "the name has a drive letter; write paths relative to data.images"
    if name.startswith(("/", "~")):
        return "the name is an absolute path; write paths relative to data.images"
    if name.startswith(".."):
        return "the name leads out of data.images; write paths relative to it"
    return ""


class FolderNames:
    """Names of the files below a folder; its folders are listed when a name is not found as it is.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[Path, Mapping[str, Sequence[str]]] = {}

    def find(self, name: str) -> Path | None:
        """Return the path of a file; None if there is none, or if several differ only in their spelling."""
        path = self._root / name
        if _exists(path):
            return path
        if has_one_spelling(name):
            flat = self._root / name.replace("/", "\\")  # unpacked from an archive with such names
            return flat if "/" in name and _exists(flat) else None
        current = self._root
        parts = normal_name(name).split("/")
        if parts[0] == "":
            return None
        for part in parts:
            entries = [part] if _exists(current / part) else self._entries(current).get(part, ())
            if len(entries) != 1:
                return None
            current = current / entries[0]
        return current

    def hint(self, name: str) -> str:
        """Return what could be meant by a name that is not found; empty if nothing is near."""
        *folders, last = normal_name(name).split("/")
        current = self._root
        for part in folders:
            current = current / part
        wanted = loose_name(last)
        near = [
            entry for entries in self._entries(current).values() for entry in entries if loose_name(entry) == wanted
        ]
        if near:
            return f"the folder has {near[0]!r}"
        shorter = "/".join([*folders[1:], last])
        if folders and _exists(self._root / shorter):
            return f"the folder has {shorter!r}; set data.images to the folder above"
        if not _exists(current):
            return f"there is no folder {'/'.join(folders)!r}"
        return ""

    def _entries(self, folder: Path) -> Mapping[str, Sequence[str]]:
        """Return the names in a folder by their composed form."""
        if folder not in self._listings:
            found = defaultdict(list)
            try:
                for path in folder.iterdir():
                    found[unicodedata.normalize("NFC", path.name)].append(path.name)
            except (OSError, ValueError):
                pass  # missing, or no folder
            self._listings[folder] = found
        return self._listings[folder]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):  # ValueError: a path with a null byte
        return False
    return True
