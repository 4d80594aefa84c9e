"""Clip art of the demo: the classes of its manifest, and the keywords of the SVG files as several labels.

The pictures, titles and splits are the demo's (`demo/data/README.md`; public domain). Related drawings are in one
split. The keywords come from the Debian package openclipart-svg. A keyword is spelt in lower case without accents, and
in the singular if other drawings have it so. The labels are those that most families of related drawings have, among
training drawings whose title does not have them. No text may reveal a label: the words of all labels, in singular and
plural, are taken out of all texts, and drawings with no other words are left out. A drawing may have no label.
"""

import csv
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.suite.data_set import DataSet, Sample, write_data_set
from benchmarks.suite.packages import OPENCLIPART_SVG, debian_package, read_members
from demo.build_data import HERE, fold, number_forms, words_of
from demo.clipart_package import LIBRARY, read_metadata, unpack_packages

LABELS = 25
_DATA = HERE / "data"
_MEANINGLESS = {"unsorted"}  # the folder of unsorted drawings

Row = dict[str, str]


def build_classes(directory: Path, source: Path | None, form: str) -> DataSet:  # noqa: ARG001  # a builder of `tasks`
    """Copy the demo's data set, with the columns of the suite; both forms are the whole."""
    rows = read_demo()
    return write_data_set(directory, [_sample(row, row["text"], (row["label"],)) for row in rows], _pictures(rows))


def build_keywords(directory: Path, source: Path | None, form: str) -> DataSet:  # noqa: ARG001
    """Build the task of the keywords; both forms are the whole.

    Args:
        directory: The folder of the data set.
        source: The folder with the Debian package; None: the folder `packages` next to the data set's.
        form: whole or bar.
    """
    rows = read_demo()
    package = debian_package(OPENCLIPART_SVG, source or directory.parent / "packages")
    with tempfile.TemporaryDirectory() as work:
        unpack_packages([OPENCLIPART_SVG.name], package.parent, Path(work))
        found = read_keywords(rows, Path(work) / LIBRARY / "svg")
    samples = keyword_samples(rows, found)
    return write_data_set(directory, samples, _pictures(rows))


def read_demo() -> list[Row]:
    """Return the rows of the demo's manifest."""
    with (_DATA / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_keywords(rows: Sequence[Row], library: Path) -> list[set[str]]:
    """Return the keywords of some drawings, without the name of their author.

    Args:
        rows: Rows of the demo's manifest.
        library: The folder of the SVG files.
    """
    found = []
    for row in rows:
        drawing = library / Path(row["source"]).with_suffix(".svg")
        _, author, keywords = read_metadata(drawing) if drawing.exists() else ("", "", ())
        spelt = {" ".join(map(fold, words_of(keyword))) for keyword in keywords}
        found.append(spelt - {"", " ".join(map(fold, words_of(author)))} - _MEANINGLESS)
    return found


def keyword_samples(rows: Sequence[Row], keywords: Sequence[set[str]], labels: int = LABELS) -> list[Sample]:
    """Return the drawings with their labels, and with texts that have none of the labels' words.

    Args:
        rows: Rows of the demo's manifest.
        keywords: The keywords of each drawing.
        labels: The number of labels.
    """
    known = Counter(word for of_drawing in keywords for word in of_drawing)
    singular = {word: _singular(word, known) for word in known}
    merged = [{singular[word] for word in of_drawing} for of_drawing in keywords]
    families: dict[str, set[str]] = defaultdict(set)
    for row, of_drawing in zip(rows, merged, strict=True):
        title = _forms(row["text"])
        for word in of_drawing if row["split"] == "train" else ():
            if not title & set(word.split()):
                families[word].add(row["family"])
    chosen = set(sorted(families, key=lambda word: (-len(families[word]), word))[:labels])
    banned = set().union(*(_forms(word) for word in chosen))
    samples = []
    for row, of_drawing in zip(rows, merged, strict=True):
        kept = [word for word in words_of(row["text"]) if fold(word) not in banned]
        if any(len(word) > 1 and not word.isdigit() for word in kept):
            samples.append(_sample(row, " ".join(kept), tuple(sorted(of_drawing & chosen))))
    return samples


def _singular(word: str, known: Mapping[str, int]) -> str:
    """Return the shortest of a keyword's forms in number that drawings have."""
    return min((form for form in number_forms(word) if form in known), key=lambda form: (len(form), form))


def _forms(text: str) -> set[str]:
    """Return the words of a text in singular and plural."""
    return set().union(*(number_forms(fold(word)) for word in words_of(text)))


def _sample(row: Row, text: str, labels: tuple[str, ...]) -> Sample:
    return Sample(row["image"], text, labels, row["split"])


def _pictures(rows: Sequence[Row]) -> dict[str, bytes]:
    names = [row["image"] for row in rows]
    return dict(zip(names, read_members(_DATA / "images.zip", names), strict=True))
