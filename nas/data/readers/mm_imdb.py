"""MM-IMDb (Arevalo et al., ICLR workshop 2017), as it is distributed: film plots and posters, labelled with genres.

split.json            train, dev, test: lists of ids
dataset/<id>.json     plot (a list; the longest is used), genres
dataset/<id>.jpeg
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.common.boundary import read_json, shown
from nas.common.errors import DataError
from nas.data.images import ImageSource, open_images
from nas.data.inputs import Input
from nas.data.readers.base import Reader
from nas.data.samples import SPLIT_NAMES, SPLITS, RawDataset, RawSample

_ID = re.compile(r"\w{1,100}")

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
"""Films with one of these genres are left out. This gives the 23 genres of MMBT (Kiela et al., 2019) and later work,
whose preparation drops films with News and films with a genre that train then lacks: the other three."""


class MMIMDbReader(Reader):
    """Reads films with a plot and at least one of the 23 genres."""

    def find_samples(self) -> RawDataset:
        root, left_out = self.folder, Counter[str]()
        splits: dict[str, list[RawSample]] = {split: [] for split in SPLITS}
        for name, ids in _read_splits(root / "split.json").items():
            for number in ids:
                path = root / "dataset" / f"{number}.json"
                film = _read_mapping(path)
                genres, plot = _genres(path, film), _longest_plot(path, film)
                rare = [genre for genre in RARE_GENRES if genre in genres]
                if rare or not genres or not plot:
                    missing = "plot" if genres else "genre"
                    left_out[f"films with {rare[0]}" if rare else f"films without {missing}"] += 1
                    continue
                splits[name].append(RawSample(f"{number}.jpeg", plot, genres, f"film {number}"))
        return RawDataset(str(root), splits, has_several_labels=True, class_names=GENRES, left_out=dict(left_out))

    def inputs(self, id_column: str | None) -> Iterator[Input]:
        del id_column
        films = [number for ids in _read_splits(self.folder / "split.json").values() for number in ids]
        for count, number in enumerate(films, start=1):
            path = self.folder / "dataset" / f"{number}.json"
            try:
                yield Input(count, f"{number}.jpeg", _longest_plot(path, _read_mapping(path)))
            except DataError as error:
                yield Input(count, "", "", error=str(error))

    def open_images(self) -> ImageSource:
        return open_images(self.folder / "dataset", self.config.max_pixels)


def _read_splits(path: Path) -> dict[str, list[str]]:
    values = _read_mapping(path)
    if not all(name in SPLIT_NAMES and isinstance(ids, list) for name, ids in values.items()):
        raise DataError(
            f"{path}: malformed splits; expected lists of ids under train, dev and test, got {shown(list(values))}"
        )
    for name, ids in values.items():
        for number in ids:
            if not isinstance(number, str | int) or not _ID.fullmatch(str(number)):
                raise DataError(
                    f"{path}: malformed id under {name}; expected the number of a film, got {shown(number)}"
                )
    return {SPLIT_NAMES[name]: [str(number) for number in ids] for name, ids in values.items()}


def _genres(path: Path, film: dict[str, Any]) -> tuple[str, ...]:
    genres = film.get("genres") or []
    if not isinstance(genres, list) or not all(isinstance(genre, str) for genre in genres):
        raise DataError(f"{path}: malformed genres; expected a list of strings, got {shown(genres)}")
    for genre in genres:
        if genre not in GENRES and genre not in RARE_GENRES:
            raise DataError(
                f"{path}: unknown genre {shown(genre)}; expected one of {', '.join((*GENRES, *RARE_GENRES))}"
            )
    return tuple(dict.fromkeys(genres))


def _longest_plot(path: Path, film: dict[str, Any]) -> str:
    plots = film.get("plot") or []
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise DataError(f"{path}: malformed plot; expected a list of strings, got {shown(plots)}")
    return max(plots, key=len, default="").strip()


def _read_mapping(path: Path) -> dict[str, Any]:
    values = read_json(path, expected="a JSON object", error=DataError)
    if not isinstance(values, dict):
        raise DataError(f"{path}: not a JSON object; expected keys and values, got {shown(values)}")
    return values
