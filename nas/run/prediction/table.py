"""Predict a table of any length: rows are read, computed and written as a stream, and a killed call is resumed."""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nas.common.errors import ArgumentError, DataError
from nas.common.progress import Reporter
from nas.common.units import format_seconds
from nas.config.data_schema import DataConfig
from nas.data.images import ImageSource
from nas.data.inputs import ID, Input
from nas.data.readers.base import Reader, load_reader
from nas.run.exported_model import ExportedModel
from nas.run.prediction.batches import BATCH_SIZE, checked_outcomes
from nas.run.prediction.formats import TableFormat, check_suffix, table_format
from nas.run.prediction.partial import PartialTable
from nas.run.prediction.ranking import DEFAULT_TOP, RankingForm, Row, ranked_rows
from nas.run.prediction.rows import Classes, RowForm

_PHASE, _EMBEDDING = "predict", "embed"
_KEEP_HINT = "; --on-error keep writes such rows without a prediction"
_WRITTEN_ROWS = 128
_COUNTED_ROWS = 10_000


@dataclass(frozen=True)
class TableOptions:
    """What is written, and how.

    Args:
        id_column: The column whose values name the rows; None for the column `id`, or without it their numbers.
        top: The number of most probable classes to list; for retrieval of texts and of pictures, `DEFAULT_TOP` for 0.
        all_probabilities: Whether the probability of each class is written.
        keeps_errors: Whether a row that cannot be predicted is written without a prediction; otherwise it is an error.
        is_spreadsheet: Whether texts that a spreadsheet would take for formulas get an apostrophe in front.
        batch_size: The number of samples that are computed at once.
    """

    id_column: str | None = None
    top: int = 0
    all_probabilities: bool = False
    keeps_errors: bool = False
    is_spreadsheet: bool = False
    batch_size: int = BATCH_SIZE


class TableOutcome(NamedTuple):
    """The outcome of predicting a table.

    Args:
        rows: The number of rows.
        errors: The number of rows that have an error instead of a prediction.
    """

    rows: int
    errors: int


class _Source(NamedTuple):
    """The rows of the input, read once.

    Args:
        reader: The reader.
        images: The source of the images.
        id_column: The column of ids; None without one.
        num_rows: The number of rows.
        digest: The digest of all rows and of what is known of their images without reading them.
    """

    reader: Reader
    images: ImageSource
    id_column: str | None
    num_rows: int
    digest: str

    def inputs(self, first: int) -> Iterator[Input]:
        """Yield the rows from a number of rows on."""
        return itertools.islice(self.reader.inputs(self.id_column), first, None)


def predict_table(
    open_model: Callable[[], ExportedModel],
    data: DataConfig,
    output: Path,
    options: TableOptions,
    *,
    reporter: Reporter,
    overwrites: bool = False,
) -> TableOutcome:
    """Predict every row of a table and write a table with one row for each, in the same order.

    A model for retrieval ranks the texts of the table for the picture of each row, and its pictures for the text.

    The rows that an earlier call has written are kept if it was stopped and had the same model, input and options.

    Args:
        open_model: Opens the exported model, after the table was looked through.
        data: The table, in any form that a reader reads; it needs neither labels nor splits.
        output: The table to write; its suffix decides the form.
        options: What is written.
        reporter: The receiver of progress.
        overwrites: Whether an existing output may be replaced.

    Raises:
        ArgumentError: If the output cannot be written, or the model has no probabilities to write.
        DataError: If the table cannot be read, or a row cannot be predicted and `keeps_errors` is false.
        ExportError: If the folder holds no exported model, or a changed one.
    """
    _check_output(output, data, overwrites=overwrites, is_spreadsheet=options.is_spreadsheet)
    source = _read_source(data, options, reporter)
    exported = open_model()
    form = _form_of(exported, options, source)
    table = table_format(output, form.columns, separator=data.label_separator, is_spreadsheet=options.is_spreadsheet)
    settings = {**vars(options), "separator": data.label_separator, "device": exported.model.device.type}
    model = [exported.digest, exported.precision]
    depends_on = {"model": model, "input": source.digest, "options": settings, "columns": form.columns}
    output.parent.mkdir(parents=True, exist_ok=True)
    with PartialTable(output, depends_on, table.header()) as partial:
        if partial.has_dropped_rows:
            reporter.note(f"{output}: starts from the first row: the model, the input or the options have changed")
        elif partial.progress.rows:
            reporter.note(f"{output}: goes on after {partial.progress.rows} of {source.num_rows} rows")
        first = partial.progress.rows
        # A ranking compares all rows with each other, those that are written already as well.
        start = 0 if isinstance(form, RankingForm) else first
        outcomes = exported.outcomes(source.inputs(start), source.images.open, options.batch_size)
        if not options.keeps_errors:
            outcomes = checked_outcomes(outcomes, data.location)
        rows: Iterator[Row]
        if isinstance(form, RankingForm):
            on_embedded = _shows_embedded(reporter, source.num_rows)
            rows = ranked_rows(outcomes, form, folder=output.parent, first=first, on_embedded=on_embedded)
        else:
            rows = (Row(form.cells(outcome), outcome.error is not None) for outcome in outcomes)
        _write(rows, table, partial, _shows_pace(reporter, first, source.num_rows))
        partial.save()
        _check_new(output, overwrites=overwrites)
        table.finish(partial.path, output)
        partial.remove()
    return TableOutcome(partial.progress.rows, partial.progress.errors)


def _form_of(exported: ExportedModel, options: TableOptions, source: _Source) -> RowForm | RankingForm:
    """Return what a row of the output holds.

    Raises:
        ArgumentError: If probabilities are to be written and the model is one for retrieval.
    """
    has_ids = source.id_column is not None
    if exported.is_retrieval:
        if options.all_probabilities:
            raise ArgumentError(
                "--probabilities: the model is one for retrieval, without classes; expected --top K, the number of "
                "texts and pictures to list"
            )
        return RankingForm(min(options.top or DEFAULT_TOP, source.num_rows), has_ids, options.keeps_errors)
    return RowForm(
        Classes(exported.class_names, exported.threshold if exported.has_several_labels else None),
        has_ids=has_ids,
        top=options.top,
        all_probabilities=options.all_probabilities,
        has_errors=options.keeps_errors,
    )


def _check_output(output: Path, data: DataConfig, *, overwrites: bool, is_spreadsheet: bool) -> None:
    """Check that a table can be written, before anything else is done.

    Raises:
        ArgumentError: If it cannot.
    """
    check_suffix(output, is_spreadsheet=is_spreadsheet)
    if output.is_dir():
        raise ArgumentError(f"--output {output}: is a folder; expected a file")
    if output.exists():
        if any(Path(place).exists() and output.samefile(place) for place in (data.location, data.images or "")):
            raise ArgumentError(f"--output {output}: is the input; expected another file")
        _check_new(output, overwrites=overwrites)


def _check_new(output: Path, *, overwrites: bool) -> None:
    """Raise ArgumentError if the output exists and must not be replaced."""
    if output.exists() and not overwrites:
        raise ArgumentError(f"--output {output}: exists; expected a new file, or --overwrite to replace it")


def _read_source(data: DataConfig, options: TableOptions, reporter: Reporter) -> _Source:
    """Read all rows once: their number, their digest, and the first that is malformed or lacks its image.

    Raises:
        DataError: If the table cannot be read, has no row, or a row cannot be used and errors are not kept.
    """
    reader = load_reader(data)
    id_column = options.id_column or (ID if reader.has_column(ID) else None)
    images = reader.open_images()
    digest, count = hashlib.sha256(str(images.location).encode()), 0
    for count, entry in enumerate(reader.inputs(id_column), start=1):
        fingerprint = None if entry.error else images.fingerprint(entry.image)
        if not options.keeps_errors:
            if entry.error:
                raise DataError(f"{entry.error}{_KEEP_HINT}")
            if fingerprint is None and (problem := images.read_error(entry.image)):
                subject = f"{data.location}, row {entry.number}: image {entry.image!r}"
                raise DataError(f"{subject}: {problem}{_KEEP_HINT}")
        digest.update(json.dumps([*entry, fingerprint]).encode())
        if count % _COUNTED_ROWS == 0:
            reporter.progress("reading", count, None)
    if not count:
        raise DataError(f"{data.location}: the table is empty; expected at least one row")
    return _Source(reader, images, id_column, count, digest.hexdigest())


def _write(
    rows: Iterable[Row],
    table: TableFormat,
    partial: PartialTable,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write all rows, a few at a time.

    Args:
        rows: The rows that are not written yet.
        table: The form of the table.
        partial: The rows so far.
        on_progress: The receiver of the numbers of rows written and of those with an error.
    """
    stream = iter(rows)
    while chosen := list(itertools.islice(stream, _WRITTEN_ROWS)):
        errors = sum(row.has_error for row in chosen)
        partial.append(table.encode(row.cells for row in chosen), rows=len(chosen), errors=errors)
        on_progress(partial.progress.rows, partial.progress.errors)


def _shows_embedded(reporter: Reporter, total: int) -> Callable[[int], None]:
    """Return a function that reports the number of embedded rows, once for each written block of a prediction."""

    def show(rows: int) -> None:
        if rows % _WRITTEN_ROWS == 0:
            reporter.progress(_EMBEDDING, rows, total)

    return show


def _shows_pace(reporter: Reporter, first: int, total: int) -> Callable[[int, int], None]:
    """Return a function that reports the numbers of rows written and of errors, with the time that is left."""
    started = time.monotonic()

    def show(rows: int, errors: int) -> None:
        rate = (rows - first) / max(time.monotonic() - started, 1e-9)
        failed = f", {errors} with an error" if errors else ""
        left = f", {format_seconds((total - rows) / rate)} left" if rows < total else ""
        reporter.progress(_PHASE, rows, total, f"{rate:.0f} rows a second{left}{failed}")

    return show
