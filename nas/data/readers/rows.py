"""Parse the cells of a row into a sample; shared by the readers whose columns the search file describes."""

import ast
import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.data.characters import check_characters
from nas.data.inputs import Input
from nas.data.samples import SPLIT_NAMES, SPLITS, RawSample


def parse_sample(row: Mapping[str, Any], config: DataConfig, *, source: str, place: str) -> RawSample:
    """Return the sample of a row.

    Args:
        row: Values by column name.
        config: The `data` section of the search file.
        source: The file, for messages.
        place: The place of the row in the file, for messages: "row 5".

    Raises:
        DataError: If the image is empty, the label is empty although each sample has one, or a value is not a text.
    """
    columns = config.columns
    where = f"{source}, {place}"
    labels = () if columns.label is None else parse_labels(row[columns.label], config, where)
    name = as_text(row[columns.image], f"{where}: {columns.image}")
    lacks_label = columns.label is not None and config.labels == "one" and not labels
    needed = "an image" if columns.label is None else "an image and a label"
    for column, is_empty in ((columns.image, not name), (columns.label, lacks_label)):
        if is_empty:
            raise DataError(f"{where}: {column} is empty; expected {needed} in every row")
    # Normalized, so that two spellings of one path are one image.
    return RawSample(posixpath.normpath(name), as_text(row[columns.text], f"{where}: {columns.text}"), labels, place)


def row_inputs(
    rows: Iterable[tuple[int, Mapping[str, Any] | DataError]],
    columns: ColumnsConfig,
    id_column: str | None,
    source: str,
) -> Iterator[Input]:
    """Yield the inputs of the rows of a table; of a row that cannot be used, its error.

    Args:
        rows: The numbers of rows with their values by column, or with what is wrong with them.
        columns: The names of the columns.
        id_column: The column of ids; None for none.
        source: The file, for messages.
    """
    for number, row in rows:
        if isinstance(row, DataError):
            yield Input(number, "", "", error=str(row))
            continue
        name = ""
        try:
            if id_column is not None:
                name = _as_characters(row[id_column], f"{source}, row {number}: {id_column}")
            image, text = (
                _as_characters(row[column], f"{source}, row {number}: {column}")
                for column in (columns.image, columns.text)
            )
            if not image:
                raise DataError(f"{source}, row {number}: {columns.image} is empty; expected an image in every row")
            yield Input(number, posixpath.normpath(image), text, name)
        except DataError as error:
            yield Input(number, "", "", name, str(error))


def _as_characters(value: Any, where: str) -> str:
    """Return a cell as text of complete characters; see `as_text`."""
    text = as_text(value, where)
    check_characters([text], where)
    return text


def parse_labels(value: Any, config: DataConfig, where: str) -> tuple[str, ...]:
    """Return the labels of a cell: a list, or a text, which is split at the separator if there may be several.

    Args:
        value: The cell.
        config: The `data` section of the search file.
        where: File and row, for messages.

    Raises:
        DataError: If a label is not a text, or the cell is a list although each sample has one label.
    """
    name = f"{where}: {config.columns.label}"
    if config.labels == "one":
        if isinstance(value, list | tuple):
            raise DataError(
                f"{name} is a list; expected one label, got {shown(value)}; set data.labels: several to allow more"
            )
        text = as_text(value, name)
        return (text,) if text else ()
    if isinstance(value, list | tuple):
        parts = [as_text(part, name) for part in value]
    else:
        cell = as_text(value, name)
        if _is_list_literal(cell):  # splitting it would silently create classes such as "['cat'"
            raise DataError(
                f"{name} is a list written as text; expected labels separated by {config.label_separator!r} "
                f"(data.label_separator), or a list in JSON Lines or Parquet, got {shown(cell)}"
            )
        parts = cell.split(config.label_separator)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def decoded_labels(
    row: Mapping[str, Any], class_names: list[str] | None, config: DataConfig, where: str
) -> tuple[str, ...]:
    """Return the labels of a row whose column may have indices of classes; none where the search file names no column.

    Args:
        row: Values by column name.
        class_names: The names of the classes; None for a column of texts.
        config: The `data` section of the search file.
        where: File and row, for messages.

    Raises:
        DataError: If the label is empty although each sample has one, or no class.
    """
    column = config.columns.label
    if column is None:
        return ()
    labels = parse_labels(decode_label(row[column], class_names, f"{where}: {column}"), config, where)
    if config.labels == "one" and not labels:
        raise DataError(f"{where}: {column} is empty; expected a label in every row")
    return labels


def _is_list_literal(cell: str) -> bool:
    """Return whether a cell is a list of texts or numbers in Python or JSON syntax."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return False
    try:
        return isinstance(ast.literal_eval(cell), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # a class name in brackets
        return False


def parse_split(row: Mapping[str, Any], columns: ColumnsConfig, where: str) -> str:
    """Return the split of a row, from `SPLITS`; train if no column has splits.

    Args:
        row: Values by column name.
        columns: Names of the columns.
        where: File and row, for messages.

    Raises:
        DataError: If the name of the split is unknown.
    """
    if columns.split is None:
        return "train"
    name = as_text(row[columns.split], f"{where}: {columns.split}")
    split = SPLIT_NAMES.get(name.lower())
    if split is None:
        raise DataError(f"{where}: {columns.split} is unknown; expected one of {', '.join(SPLITS)}, got {shown(name)}")
    return split


def as_text(value: Any, where: str) -> str:
    """Return a cell as text: numbers as they are written; None, and NaN as pandas writes it, as the empty text.

    Args:
        value: The cell.
        where: File, row and column, for messages.

    Raises:
        DataError: If the cell is not a text or a number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"{where} is not text; expected text, got {shown(value)} ({type(value).__name__})")
    return str(value).strip()


def decode_label(value: Any, class_names: list[str] | None, where: str) -> Any:
    """Return the names of class indices; other values unchanged.

    Args:
        value: The cell.
        class_names: The names of the classes; None for a column of texts.
        where: File, row and column, for messages.

    Raises:
        DataError: If an index is none of a class.
    """
    if class_names is None or value is None:
        return value
    if value == -1:  # marks a label that is not published
        return None
    indices = value if isinstance(value, list) else [value]
    if not all(isinstance(index, int) and 0 <= index < len(class_names) for index in indices):
        raise DataError(f"{where} has an invalid class index; expected 0 to {len(class_names) - 1}, got {shown(value)}")
    if not isinstance(value, list):
        return class_names[value]
    return [class_names[index] for index in value]
