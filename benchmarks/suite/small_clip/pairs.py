"""The training pictures as a memory map, with their texts, and the random text of a step.

A folder of pairs holds `pictures.npy` (N, 128, 128, 3) bytes and, written last, `pairs.json`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.suite.small_clip.leaks import held_out_of_suite, near_copies
from benchmarks.suite.small_clip.sources import SOURCES, Pair, Picture
from demo.build_data import COLLECTION_TITLE
from nas.common.files import replace_atomically, write_atomically

PICTURES, PAIRS = "pictures.npy", "pairs.json"
TEMPLATES = ("a picture of {}", "a drawing of {}", "clip art of {}", "an icon of {}", "a photo of {}")
_BLANK = 245
"""A picture whose darkest channel is brighter is blank."""
_TEMPLATE_SHARE, _TITLE_SHARE, _MOST_KEYWORDS = 0.3, 0.7, 4

Note = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """Pictures with their texts.

    Args:
        pictures: RGB on white, (N, H, H, 3) bytes.
        pairs: Their N texts.
        counts: What was found, kept and left out, for the model card.
    """

    pictures: NDArray[np.uint8]
    pairs: Sequence[Pair]
    counts: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Material":
        """Open a folder of pairs; the pictures are memory-mapped."""
        content = json.loads((folder / PAIRS).read_text(encoding="utf-8"))
        pairs = [Pair(row["key"], row["title"], tuple(row["keywords"]), row["source"]) for row in content["pairs"]]
        return cls(np.load(folder / PICTURES, mmap_mode="r"), pairs, content["counts"])

    def save(self, folder: Path) -> None:
        """Write the folder; after a crash it is either complete or has no `pairs.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        with replace_atomically(folder / PICTURES) as path, path.open("wb") as file:
            np.save(file, self.pictures)
        content = {"counts": self.counts, "pairs": [asdict(pair) for pair in self.pairs]}
        write_atomically(folder / PAIRS, json.dumps(content, ensure_ascii=False).encode())


def prepare(folder: Path, packages: Path, work: Path, grocery: Path | None, note: Note) -> Material:
    """Return the pairs of all sources without what a task holds out; download and render them if necessary.

    Args:
        folder: The folder of the pairs, which is read if it is complete.
        packages: The folder of packages; missing ones are downloaded.
        work: A folder for work files.
        grocery: The source of the grocery task, for comparison.
        note: Receives lines of progress.
    """
    if (folder / PAIRS).exists():
        return Material.load(folder)
    found: list[tuple[Pair, Picture]] = []
    for source in SOURCES:
        source.download(packages)
        before = len(found)
        found += source.read(packages, work)
        note(f"{source.name}: {len(found) - before:,} pictures")
    hidden, held_out = held_out_of_suite(packages, work / "tasks", grocery)
    note(f"comparing with {len(hidden):,} held-out pictures")
    material = without_copies(found, hidden, {"held out": held_out})
    material.save(folder)
    return material


def without_copies(
    found: Iterable[tuple[Pair, Picture]], held_out: Sequence[NDArray[np.uint8]], counts: Mapping[str, Any]
) -> Material:
    """Return the pairs that have a text of their own and ink, and are no near copy of a held-out picture.

    Title and keywords that many pictures share, such as those of a theme of icons, say nothing about one of them.

    Args:
        found: The pairs.
        held_out: The held-out pictures.
        counts: Figures to which the numbers of pairs are added.
    """
    listed = [(pair, square) for pair, square in found if (pair.title or pair.keywords) and square.min() <= _BLANK]
    shared = Counter((pair.title, pair.keywords) for pair, _ in listed)
    usable = [entry for entry in listed if shared[entry[0].title, entry[0].keywords] <= COLLECTION_TITLE]
    pairs, pictures = [pair for pair, _ in usable], np.stack([square for _, square in usable])
    copied = near_copies(pictures, held_out)
    kept = np.flatnonzero(~copied)
    by_source = {
        "kept": Counter(pairs[index].source for index in kept),
        "near copies left out": Counter(pairs[index].source for index in np.flatnonzero(copied)),
    }
    return Material(pictures[kept], [pairs[index] for index in kept], {**counts, **by_source})


def random_text(pair: Pair, rng: np.random.Generator) -> str:
    """Return a text of a picture: its title, some keywords or both, sometimes in a phrase.

    Single keywords occur as the whole text, as the names of classes do in zero-shot classification.
    """
    count = int(rng.integers(0, min(len(pair.keywords), _MOST_KEYWORDS) + 1))
    words = [pair.keywords[index] for index in rng.permutation(len(pair.keywords))[:count]]
    if pair.title and (not words or rng.random() < _TITLE_SHARE):
        words.insert(0, pair.title)
    text = ", ".join(words or pair.keywords[:1])
    if rng.random() < _TEMPLATE_SHARE:
        text = TEMPLATES[rng.integers(len(TEMPLATES))].format(text)
    return text
