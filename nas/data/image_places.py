"""Find the folder or ZIP file of the images that a table names, where the named place does not have them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.common.errors import DataError
from nas.data.images import open_images

_TRIED = 200
_MAX_NEAR = 100


def found_shares(names: Sequence[str], *, given: Path | None, near: Path) -> Mapping[Path, float]:
    """Return the places that may have images, the likeliest first, with the part of the images that each has.

    The list ends with the first place that has all.

    Args:
        names: The paths of the images; the first 200 are looked for.
        given: The place that the user has named.
        near: The folder to look in and next to.
    """
    wanted = list(dict.fromkeys(names))[:_TRIED]
    shares: dict[Path, float] = {}
    for place in dict.fromkeys(_places(given, near)):
        shares[place] = _share(place, wanted)
        if shares[place] == 1:
            break
    return shares


def place_hint(location: Path, names: Sequence[str]) -> str:
    """Return the place that is probably meant, where the named one has none of the images; otherwise nothing.

    Args:
        location: The named place.
        names: The paths of the images.
    """
    shares = found_shares(names, given=location, near=location.parent)
    if shares.get(location):
        return ""
    return next((f"; they are in {place}: set data.images to it" for place in shares if shares[place] == 1), "")


def _places(given: Path | None, near: Path) -> Iterator[Path]:
    if given is not None:
        yield given
        yield given.parent  # whose paths begin with the name of the folder
    yield near
    for folder in (near,) if given is None or not given.is_dir() else (given, near):
        entries = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() or entry.suffix.lower() == ".zip"]
        yield from entries[:_MAX_NEAR]


def _share(place: Path, names: Sequence[str]) -> float:
    try:
        source = open_images(place)
    except DataError:
        return 0.0
    return sum(source.size(name) is not None for name in names) / max(len(names), 1)
