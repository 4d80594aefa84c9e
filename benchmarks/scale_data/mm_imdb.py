"""A folder like that of MM-IMDb: 15,552, 2,608 and 7,799 films with a plot, a poster and one to three of 23 genres."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

from benchmarks.scale_data.samples import picture, scaled, text
from nas.data.readers.mm_imdb import GENRES

SAMPLES: Mapping[str, int] = {"train": 15_552, "dev": 2_608, "test": 7_799}
_FIRST_ID = 1_000_000
_WORDS = 90
"""The number of words of a plot: as many as the median of the original."""


def write_mm_imdb(root: Path, share: float = 1.0) -> None:
    """Write the folder.

    Args:
        root: The folder, which does not exist.
        share: The share of the films to write.
    """
    (root / "dataset").mkdir(parents=True)
    splits: dict[str, list[str]] = {}
    number = _FIRST_ID
    for split, count in SAMPLES.items():
        splits[split] = []
        for index in range(scaled(count, share, at_least=2 * len(GENRES))):
            generator = random.Random(number)
            label = index % len(GENRES)
            others = generator.sample(range(len(GENRES)), generator.randint(0, 2))
            film = {
                "title": f"Film {number}",
                "genres": list(dict.fromkeys(GENRES[genre] for genre in (label, *others))),
                "plot": [text(number, label, 20), text(number, label, _WORDS)],
                "year": 1950 + number % 70,
            }
            splits[split].append(f"{number:07}")
            (root / "dataset" / f"{number:07}.json").write_text(json.dumps(film), encoding="utf-8")
            (root / "dataset" / f"{number:07}.jpeg").write_bytes(picture(number, label, len(GENRES)))
            number += 1
    (root / "split.json").write_text(json.dumps(splits), encoding="utf-8")
