"""SNLI-VE (Xie et al., 2019), as it is distributed: whether a sentence follows from an image of Flickr30k.

snli_ve_{train,dev,test}.jsonl     Flickr30K_ID, sentence2, gold_label in every line
flickr30k_images/<id>.jpg
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, reading
from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.data.images import ImageSource, open_images
from nas.data.inputs import Input
from nas.data.readers.base import Reader
from nas.data.readers.lines import Lines
from nas.data.readers.rows import as_text, row_inputs
from nas.data.readers.tables import input_columns, parse_object, table_rows
from nas.data.samples import RawDataset, RawSample

LABELS = ("contradiction", "entailment", "neutral")
UNDECIDED = "-"
"""The gold label of SNLI sentences on which the annotators did not agree."""

_FILES = {"train": "train", "validation": "dev", "test": "test"}
_KEYS = ("Flickr30K_ID", "sentence2", "gold_label")


class SNLIVEReader(Reader):
    """Reads all sentences with a gold label; many sentences share an image."""

    def find_samples(self) -> RawDataset:
        root, left_out = self.folder, Counter[str]()
        splits = {split: _read_file(root, f"snli_ve_{name}.jsonl", left_out) for split, name in _FILES.items()}
        return RawDataset(str(root), splits, class_names=LABELS, left_out=dict(left_out))

    def inputs(self, id_column: str | None) -> Iterator[Input]:
        del id_column
        paths = [self.folder / f"snli_ve_{name}.jsonl" for name in _FILES.values()]
        found = [path for path in paths if path.exists()] or paths[:1]  # of those to predict, there may be only one
        entries = (entry for path in found for entry in _file_inputs(path, self.config))
        return (entry._replace(number=number) for number, entry in enumerate(entries, start=1))

    def open_images(self) -> ImageSource:
        return open_images(self.folder / "flickr30k_images", self.config.max_pixels)


def _file_inputs(path: Path, config: DataConfig) -> Iterator[Input]:
    """Yield all sentences of a file, also those without a gold label."""
    image, text, _ = _KEYS
    columns = ColumnsConfig(image=image, text=text, split=None)
    rows = table_rows(path, config, columns, input_columns(columns, None), [])
    for entry in row_inputs(rows, columns, None, str(path)):
        yield entry if entry.error else entry._replace(image=_file_name(entry.image))


def _file_name(image: str) -> str:
    return f"{image.removesuffix('.jpg')}.jpg"


def _read_file(root: Path, name: str, left_out: Counter[str]) -> list[RawSample]:
    """Return the samples of a file, and count those left out."""
    path, samples = root / name, []
    expected = "one JSON object per line"
    check_regular_file(path, expected=expected, error=DataError)
    check_no_lfs_pointer(path, expected=expected, error=DataError)
    with reading(path, expected=expected, error=DataError), path.open("rb") as file:
        for number, line in enumerate(Lines(path, file), start=1):
            if not line.strip():
                continue
            place = f"{name}, row {number}"
            image, text, label = _parse_line(root, place, line)
            if label == UNDECIDED or not text:
                left_out["sentences without gold label" if label == UNDECIDED else "empty sentences"] += 1
                continue
            samples.append(RawSample(_file_name(image), text, (label,), place))
    return samples


def _parse_line(root: Path, place: str, line: str) -> tuple[str, str, str]:
    """Return the image, the sentence and the label of a line."""
    row = parse_object(line, f"{root}, {place}")
    missing = [key for key in _KEYS if key not in row]
    if missing:
        raise DataError(f"{root}, {place}: key {', '.join(map(repr, missing))} is missing; expected {', '.join(_KEYS)}")
    image, text, label = (as_text(row[key], f"{root}, {place}: {key}") for key in _KEYS)
    if not image:
        raise DataError(f"{root}, {place}: {_KEYS[0]} is empty; expected the image of every sentence")
    return image, text, label
