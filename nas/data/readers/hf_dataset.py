"""What Hugging Face's `datasets` has saved by `save_to_disk`, with its pictures inside."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nas.common.errors import DataError
from nas.config.schema import DataConfig
from nas.data.dataset import SPLIT_NAMES, SPLITS, Found, Sample
from nas.data.images import ImageSource, file_size
from nas.data.readers.base import Reader
from nas.data.readers.manifest import as_text, labels_of, split_of

_TOGETHER = 1000


class SavedImages(ImageSource):
    """Pictures of a saved data set; their names are part and row, the first one that has the picture: `train/17`.

    Args:
        location: The folder.
        column: Of the pictures.
    """

    def __init__(self, location: Path, column: str) -> None:
        self.location = location
        self._column = column

    def fingerprint(self, name: str) -> str | None:
        part, _, row = name.rpartition("/")
        data = _parts(self.location).get(part)
        return None if data is None or int(row) >= len(data) else str(data._fingerprint)

    def size(self, name: str) -> int | None:
        value = self._value(name)
        if value is None:
            return None
        return file_size(Path(value["path"])) if value["bytes"] is None else len(value["bytes"])

    def _bytes(self, name: str) -> bytes:
        value = self._value(name)
        if value is None:
            raise ValueError("there is no picture")
        return Path(value["path"]).read_bytes() if value["bytes"] is None else bytes(value["bytes"])

    def _value(self, name: str) -> dict[str, Any] | None:
        """The cell: bytes, or a path."""
        part, _, row = name.rpartition("/")
        value: dict[str, Any] | None = _undecoded(self.location, part, self._column)[int(row)][self._column]
        return value


class SavedDatasetReader(Reader):
    """Reads every row of every part."""

    def find_samples(self) -> Found:
        return _find(self.folder, self.config)

    def open_images(self) -> ImageSource:
        return SavedImages(self.folder, self.config.columns.image)


def _find(root: Path, config: DataConfig) -> Found:
    columns = config.columns
    splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for part, data in _parts(root).items():
        own = SPLIT_NAMES.get(part.lower())
        if part and own is None:
            raise DataError(f"{root}: a part is named {part!r}; expected one of {', '.join(SPLITS)}")
        column = None if part else columns.split
        wanted = [name for name in (columns.image, columns.text, columns.label, column) if name is not None]
        missing = [name for name in wanted if name not in data.column_names]
        if missing:
            raise DataError(
                f"{root}: there is no column {', '.join(map(repr, missing))}; there are {', '.join(data.column_names)}"
            )
        if len(set(wanted)) < len(wanted):
            raise DataError(
                f"{root}: data.columns: {', '.join(map(repr, wanted))}; expected a column of its own for each"
            )
        names = _label_names(data.features[columns.label])
        try:
            pictures = _first_rows(root, part, columns.image)
        except (TypeError, ValueError, NotImplementedError, KeyError) as error:  # what Arrow's errors are
            raise DataError(f"{root}: column {columns.image!r} holds no pictures: {error}") from error
        kept = data.select_columns([name for name in wanted if name != columns.image])
        number = 0
        for batch in kept.iter(_TOGETHER):
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                where = f"{part or 'data'}, row {number}"
                value = _named(row[columns.label], names, f"{root}, {where}: {columns.label}")
                labels = labels_of(value, config, f"{root}, {where}")
                if config.labels == "one" and not labels:
                    raise DataError(f"{root}, {where}: {columns.label} is empty; every row needs a label")
                split = own or split_of(row, columns, f"{root}, {where}")
                splits[split].append(
                    Sample(
                        f"{part}/{pictures[number]}",
                        as_text(row[columns.text], f"{root}, {where}: {columns.text}"),
                        labels,
                        where,
                    )
                )
                number += 1
    return Found(str(root), splits, has_several_labels=config.labels == "several")


@cache
def _parts(root: Path) -> Mapping[str, Any]:
    """Data sets by the name of their split; one without splits has the name ''."""
    try:
        from datasets import DatasetDict, load_from_disk  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise DataError(f"{root}: needs another package; run pip install 'pmf-nas[datasets]'") from error
    try:
        whole = load_from_disk(str(root))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{root}: is no data set that datasets has saved: {error}") from error
    parts = whole if isinstance(whole, DatasetDict) else {"": whole}
    return {name: part.with_format(None) for name, part in parts.items()}  # as numbers and texts, not as arrays


@cache
def _undecoded(root: Path, part: str, column: str) -> Any:
    from datasets import Image as Picture  # noqa: PLC0415 (an extra)

    return _parts(root)[part].select_columns([column]).cast_column(column, Picture(decode=False))


@cache
def _first_rows(root: Path, part: str, column: str) -> Sequence[int]:
    """Of every row the first one with the same picture.

    Several texts about one picture have to be held out together, and its features are stored once. Only pictures of one
    size are read to be compared.
    """
    from pyarrow import compute  # noqa: PLC0415 (an extra)

    pictures = _undecoded(root, part, column)
    sizes: list[int | None] = []
    for table in pictures.with_format("arrow").iter(_TOGETHER):
        sizes += compute.binary_length(compute.struct_field(table[column], "bytes")).to_pylist()
    counts = Counter(sizes)
    first: dict[object, int] = {}
    rows = []
    for row, size in enumerate(sizes):
        picture: object = row
        if counts[size] > 1 and (value := pictures[row][column]) is not None:
            picture = (value["path"] or row) if size is None else hashlib.sha256(value["bytes"]).digest()
        rows.append(first.setdefault(picture, row))
    return rows


def _label_names(feature: Any) -> list[str] | None:
    """Names of classes that are kept as numbers, alone or in lists; None where labels are texts."""
    for entry in (feature, getattr(feature, "feature", None)):
        names = getattr(entry, "names", None)
        if names is not None:
            return list(names)
    return None


def _named(value: Any, names: list[str] | None, where: str) -> Any:
    if names is None or value is None:
        return value
    if not isinstance(value, list):
        return names[value] if value >= 0 else None  # -1: a label that was kept secret
    if any(index is None or index < 0 for index in value):
        raise DataError(f"{where} holds {value}; expected numbers of classes, 0 to {len(names) - 1}")
    return [names[index] for index in value]
