"""A data set of Hugging Face with its images inside: saved by `save_to_disk` of `datasets`, or Parquet files."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, reading
from nas.common.errors import DataError
from nas.common.files import file_size
from nas.config.data_schema import MAX_PIXELS, ColumnsConfig, DataConfig
from nas.data.decoding import OpenFile, open_file
from nas.data.images import ImageSource
from nas.data.inputs import Input
from nas.data.pixels import ImageProblem
from nas.data.readers.base import Reader
from nas.data.readers.image_tables import image_table_inputs, read_image_table
from nas.data.readers.parquet_files import ParquetImages, find_parts
from nas.data.readers.rows import as_text, decoded_labels, parse_split, row_inputs
from nas.data.readers.tables import has_column, input_columns, missing_column_hint
from nas.data.samples import SPLIT_NAMES, SPLITS, RawDataset, RawSample

_BATCH_ROWS = 1000
_MAX_STAMP = 64
_SAVED = ("dataset_dict.json", "state.json")


class SavedImages(ImageSource):
    """Images of a saved data set, named by part and row, such as `train/17`.

    Args:
        location: The folder of the data set.
        column: Name of the image column.
        max_pixels: The number of pixels that an image may have.
    """

    def __init__(self, location: Path, column: str, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(location, max_pixels)
        self._column = column
        self._stamps: dict[str, str] = {}

    def fingerprint(self, name: str) -> str | None:
        stamp = self._stamp_of(name)
        # An index has it for every image, and a part may have many files.
        return stamp if stamp is None or len(stamp) <= _MAX_STAMP else hashlib.sha256(stamp.encode()).hexdigest()

    def modified_ns(self, name: str) -> int:
        return max(map(int, (self._stamp_of(name) or "").split()[1::2]), default=0)

    def _stamp_of(self, name: str) -> str | None:
        """Return the sizes and modification times of the files that an image is in."""
        part, _, row = name.rpartition("/")
        data = _load_parts(self.location).get(part)
        if data is None or int(row) >= len(data):
            return None
        if _byte_sizes(self.location, part, self._column)[int(row)] is None and (value := self._value(name)):
            return _stamp([Path(value["path"])])  # the picture is not in the files of the data set
        if part not in self._stamps:
            self._stamps[part] = _stamp(Path(entry["filename"]) for entry in data.cache_files)
        return self._stamps[part]

    def size(self, name: str) -> int | None:
        value = self._value(name)
        if value is None:
            return None
        return file_size(Path(value["path"])) if value["bytes"] is None else len(value["bytes"])

    def _chunks(self, name: str) -> Iterable[bytes]:
        value = self._value(name)
        if value is None:
            raise ImageProblem("the cell is empty; expected an image")
        return (Path(value["path"]).read_bytes() if value["bytes"] is None else bytes(value["bytes"]),)

    def _opener(self, name: str) -> OpenFile:
        content = b"".join(self._chunks(name))
        return lambda: open_file(io.BytesIO(content))

    def _value(self, name: str) -> dict[str, Any] | None:
        """Return the undecoded cell, which has bytes or a path."""
        part, _, row = name.rpartition("/")
        value: dict[str, Any] | None = load_undecoded(self.location, part, self._column)[int(row)][self._column]
        return value


class SavedDatasetReader(Reader):
    """Reads every row of every part: each part is a split, or a single part has a split column."""

    def find_samples(self) -> RawDataset:
        root = self.folder
        if (parts := _parquet_parts(root)) is not None:
            tables = read_image_table(root, parts, self.config)
            return RawDataset(str(root), tables, has_several_labels=self.config.labels == "several")
        _forget_changed(root)
        splits: dict[str, list[RawSample]] = {split: [] for split in SPLITS}
        for part, data in _load_parts(root).items():
            split = SPLIT_NAMES.get(part.lower())
            if part and split is None:
                raise DataError(f"{root}: unknown part; expected one of {', '.join(SPLITS)}, got {part!r}")
            for name, sample in _read_part(root, part, data, split, self.config):
                splits[name].append(sample)
        return RawDataset(str(root), splits, has_several_labels=self.config.labels == "several")

    def lacks_split_column(self) -> bool:
        split = self.config.columns.split
        if (files := _parquet_parts(self.folder)) is not None:
            return split is not None and list(files) == [""] and not has_column(files[""][0], split, self.config)
        parts = _load_parts(self.folder)
        return split is not None and list(parts) == [""] and split not in parts[""].column_names

    def has_split_folders(self) -> bool:
        files = _parquet_parts(self.folder)
        return list(_load_parts(self.folder) if files is None else files) != [""]

    def has_column(self, name: str) -> bool:
        if (files := _parquet_parts(self.folder)) is not None:
            return all(has_column(path, name, self.config) for paths in files.values() for path in paths)
        return all(name in part.column_names for part in _load_parts(self.folder).values())

    def inputs(self, id_column: str | None) -> Iterator[Input]:
        root, columns = self.folder, self.config.columns.replace(split=None)
        if (files := _parquet_parts(root)) is not None:
            return image_table_inputs(root, files, columns, id_column)
        _forget_changed(root)
        names = input_columns(columns, id_column)
        for data in _load_parts(root).values():
            _check_columns(root, data, names, columns)
        rows = (
            {**row, columns.image: f"{part}/{index}"}
            for part, data in _load_parts(root).items()
            for index, row in enumerate(_rows(data, [name for name in names if name != columns.image]))
        )
        return row_inputs(enumerate(rows, start=1), columns, id_column, str(root))

    def open_images(self) -> ImageSource:
        if (parts := _parquet_parts(self.folder)) is not None:
            config = self.config
            folder = self.folder if self.folder.is_dir() else self.folder.parent
            return ParquetImages(self.folder, parts, config.columns.image, folder=folder, max_pixels=config.max_pixels)
        return SavedImages(self.folder, self.config.columns.image, self.config.max_pixels)


def _parquet_parts(root: Path) -> dict[str, list[Path]] | None:
    """Return the Parquet files of a data set by split; None for one that `save_to_disk` has written, or none."""
    if any((root / name).exists() for name in _SAVED):
        return None
    return find_parts(root) or None if root.suffix.lower() == ".parquet" or root.is_dir() else None


def _read_part(
    root: Path, part: str, data: Any, split: str | None, config: DataConfig
) -> Iterator[tuple[str, RawSample]]:
    """Yield the samples of a part, each with its split."""
    columns = config.columns
    split_column = None if part else columns.split
    names = [name for name in (columns.image, columns.text, columns.label, split_column) if name is not None]
    _check_columns(root, data, names, columns)
    class_names = None if columns.label is None else _class_names(data.features[columns.label])
    subject = f"{root}: column {columns.image!r}"
    with reading(subject, expected="an Image column", error=DataError, problem="has no images"):
        first_rows = _first_rows_with_image(root, part, columns.image)
    for number, row in enumerate(_rows(data, [name for name in names if name != columns.image])):
        place = f"{part or 'data'}, row {number}"
        where = f"{root}, {place}"
        labels = decoded_labels(row, class_names, config, where)
        text = as_text(row[columns.text], f"{where}: {columns.text}")
        sample = RawSample(f"{part}/{first_rows[number]}", text, labels, place)
        yield split or parse_split(row, columns, where), sample


def _rows(data: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part with some columns."""
    for batch in data.select_columns(list(names)).iter(_BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _check_columns(root: Path, data: Any, names: Sequence[str], columns: ColumnsConfig) -> None:
    """Check that a part has the columns to read.

    Raises:
        DataError: If one is missing.
    """
    missing = [name for name in names if name not in data.column_names]
    if missing:
        raise DataError(
            f"{root}: column {', '.join(map(repr, missing))} is missing; expected it in the data set, got "
            f"{', '.join(data.column_names)}{missing_column_hint(missing, columns)}"
        )


@cache
def _load_parts(root: Path) -> Mapping[str, Any]:
    """Return the parts of a saved data set by name; the only part of a data set without splits is named ''."""
    try:
        from datasets import DatasetDict, load_from_disk  # noqa: PLC0415 (an optional dependency)
    except ImportError as error:
        raise DataError(
            f"{root}: reader datasets needs the package datasets; run pip install 'pmf-nas[datasets]'"
        ) from error
    expected = "a folder written by save_to_disk, or with Parquet files"
    with reading(root, expected=expected, error=DataError, problem="not a saved data set"):
        for path in root.rglob("*.arrow"):
            check_regular_file(path, expected="an Arrow file", error=DataError)
            check_no_lfs_pointer(path, expected="an Arrow file", error=DataError)
        whole = load_from_disk(str(root))
    parts = whole if isinstance(whole, DatasetDict) else {"": whole}
    return {name: part.with_format(None) for name, part in parts.items()}  # plain Python values, not arrays


@cache
def load_undecoded(root: Path, part: str, column: str) -> Any:
    """Return the image column of a part as rows of bytes or paths, without decoding the images."""
    from datasets import Image as ImageFeature  # noqa: PLC0415 (an optional dependency)

    return _load_parts(root)[part].select_columns([column]).cast_column(column, ImageFeature(decode=False))


@cache
def _byte_sizes(root: Path, part: str, column: str) -> Sequence[int | None]:
    """Return the size of the picture in every row; None where the row has none, or only the path of one."""
    from pyarrow import compute  # noqa: PLC0415 (an optional dependency)

    sizes: list[int | None] = []
    for table in load_undecoded(root, part, column).with_format("arrow").iter(_BATCH_ROWS):
        sizes += compute.binary_length(compute.struct_field(table[column], "bytes")).to_pylist()
    return sizes


_SEEN: dict[Path, str] = {}
"""The sizes and times of the files of each data set that this process has read."""


def _forget_changed(root: Path) -> None:
    """Forget what was read of a data set whose files have changed since."""
    try:
        stamp = _stamp(sorted(path for path in root.rglob("*") if path.is_file()))
    except OSError:
        return  # which is reported when it is read
    if _SEEN.setdefault(root, stamp) != stamp:
        for function in (_load_parts, load_undecoded, _byte_sizes, _first_rows_with_image):
            function.cache_clear()
        _SEEN[root] = stamp


def _stamp(paths: Iterable[Path]) -> str:
    """Return a string that changes with the size or modification time of any file; empty if one is missing."""
    try:
        facts = [path.stat() for path in paths]
    except (OSError, ValueError):
        return ""
    return " ".join(f"{status.st_size} {status.st_mtime_ns}" for status in facts)


@cache
def _first_rows_with_image(root: Path, part: str, column: str) -> Sequence[int]:
    """Return, for every row, the first row with the same image.

    Samples that share an image have to be held out together, and its features are stored once. Only images of equal
    size are read and compared.
    """
    images, sizes = load_undecoded(root, part, column), _byte_sizes(root, part, column)
    counts = Counter(sizes)
    first: dict[object, int] = {}
    rows = []
    for row, size in enumerate(sizes):
        content: object = row
        if counts[size] > 1 and (value := images[row][column]) is not None:
            content = (value["path"] or row) if size is None else hashlib.sha256(value["bytes"]).digest()
        rows.append(first.setdefault(content, row))
    return rows


def _class_names(feature: Any) -> list[str] | None:
    """Return the class names of a column of class indices or of lists of them; None for a column of texts."""
    for entry in (feature, getattr(feature, "feature", None)):
        names = getattr(entry, "names", None)
        if names is not None:
            return list(names)
    return None
