"""MM-IMDb (Arevalo et al., ICLR workshop 2017), as it is distributed: plots and posters of films, with their genres.

split.json            train, dev, test: lists of ids
dataset/<id>.json     plot (a list, of which the longest is taken), genres
dataset/<id>.jpeg
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from nas.common.errors import DataError
from nas.data.dataset import SPLIT_NAMES, SPLITS, Found, Sample
from nas.data.images import ImageSource, open_images
from nas.data.readers.base import Reader

GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Biography",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Family",
    "Fantasy",
    "Film-Noir",
    "History",
    "Horror",
    "Music",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Short",
    "Sport",
    "Thriller",
    "War",
    "Western",
)
RARE_GENRES = ("News", "Adult", "Talk-Show", "Reality-TV")
"""Films with one of them are left out, whatever else they are. So MMBT (Kiela et al., 2019) and those after it come to
23 genres: its preparation drops films with News, and those with a genre that train does not have, as it then has none
of the other three."""


class MMIMDbReader(Reader):
    """Reads films with a plot and at least one of the 23 genres."""

    def find_samples(self) -> Found:
        return _find(self.folder)

    def open_images(self) -> ImageSource:
        return open_images(self.folder / "dataset")


def _find(root: Path) -> Found:
    left_out = Counter[str]()
    splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for name, ids in _splits(root / "split.json").items():
        for number in ids:
            path = root / "dataset" / f"{number}.json"
            film = _mapping(path)
            genres, plot = _genres(path, film), _plot(path, film)
            rare = [genre for genre in RARE_GENRES if genre in genres]
            if rare or not genres or not plot:
                left_out[f"films with {rare[0]}" if rare else "films without " + ("plot" if genres else "genre")] += 1
                continue
            splits[name].append(Sample(f"{number}.jpeg", plot, genres, f"film {number}"))
    return Found(str(root), splits, has_several_labels=True, class_names=GENRES, left_out=dict(left_out))


def _splits(path: Path) -> dict[str, list[str]]:
    values = _mapping(path)
    if not all(name in SPLIT_NAMES and isinstance(ids, list) for name, ids in values.items()):
        raise DataError(f"{path}: expected lists of ids under train, dev and test, got {', '.join(values)}")
    return {SPLIT_NAMES[name]: [str(number) for number in ids] for name, ids in values.items()}


def _genres(path: Path, film: dict[str, Any]) -> tuple[str, ...]:
    genres = film.get("genres") or []
    if not isinstance(genres, list) or not all(isinstance(genre, str) for genre in genres):
        raise DataError(f"{path}: genres is {genres!r}; expected a list of texts")
    for genre in genres:
        if genre not in GENRES and genre not in RARE_GENRES:
            raise DataError(f"{path}: genre {genre!r} is none of the {len(GENRES)} known ones ({', '.join(GENRES)})")
    return tuple(dict.fromkeys(genres))


def _plot(path: Path, film: dict[str, Any]) -> str:
    plots = film.get("plot") or []
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise DataError(f"{path}: plot is {plots!r}; expected a list of texts")
    return max(plots, key=len, default="").strip()


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds {type(values).__name__}; expected keys and values")
    return values
