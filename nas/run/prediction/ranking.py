"""Rank the texts of a table for each of its pictures, and its pictures for each of its texts.

The galleries are the different pictures (paths) and texts (as `nas.data.pairs.normal_text` compares them) of the rows
that can be read. All rows are embedded first. The embeddings are in a file without a name, which ends with the process,
and are compared in blocks, so that memory holds one block of scores and the paths and texts of the table.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nas.common.errors import NasError
from nas.data.inputs import Input
from nas.data.pairs import normal_text
from nas.run.prediction.batches import Outcome
from nas.run.prediction.rows import Cell, Column, significant
from nas.training.retrieval import BLOCK_SCORES, best_items

DEFAULT_TOP = 5
"""The number of texts and pictures that are listed for a row by default."""

_QUERIES = 512
"""The number of rows that are ranked at once."""


Items = Sequence[tuple[str, float]]
"""Texts or paths of pictures, the best first, with their similarities."""


class Row(NamedTuple):
    """A row of the output.

    Args:
        cells: One for each column.
        has_error: Whether it has an error in place of an outcome.
    """

    cells: Sequence[Cell]
    has_error: bool


@dataclass(frozen=True)
class RankingForm:
    """What a row of a ranking holds.

    Args:
        top: The number of texts for the picture of the row, and of pictures for its text.
        has_ids: Whether rows are named by a column of ids instead of their number.
        has_errors: Whether there is a column of errors.
    """

    top: int
    has_ids: bool = False
    has_errors: bool = False

    @property
    def columns(self) -> list[Column]:
        """The columns in order."""
        columns = [Column("id", "text") if self.has_ids else Column("row", "integer")]
        for side in ("text", "image"):
            for rank in range(1, self.top + 1):
                columns += [Column(f"{side}_{rank}", "text"), Column(f"{side}_{rank}_similarity", "number")]
        return [*columns, Column("error", "text")] if self.has_errors else columns

    def row(self, entry: Input, found: Sequence[Items], error: NasError | None = None) -> Row:
        """Return the row of an input.

        Args:
            entry: The input.
            found: The best texts of its picture and the best pictures of its text, each with its similarity.
            error: Why there are none; None if there are.
        """
        cells: list[Cell] = [entry.id if self.has_ids else entry.number]
        for items in found:
            for name, similarity in items:
                cells += [name, significant(similarity)]
            cells += [None, None] * (self.top - len(items))  # the gallery is smaller
        if self.has_errors:
            cells.append(None if error is None else str(error))
        return Row(cells, error is not None)


@dataclass
class _Gallery:
    """The different pictures, or the different texts.

    Args:
        items: The number of the item of each row.
        names: How each item is written where it occurs first.
        rows: The number of the row where it does.
    """

    items: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, name: str) -> None:
        """Add a row.

        Args:
            key: What is equal for equal items.
            name: How the item is written.
        """
        number = self._numbers.setdefault(key, len(self.names))
        if number == len(self.names):
            self.names.append(name)
            self.rows.append(len(self.items))
        self.items.append(number)


def ranked_rows(
    outcomes: Iterable[Outcome],
    form: RankingForm,
    *,
    folder: Path,
    first: int,
    on_embedded: Callable[[int], None],
    block_scores: int = BLOCK_SCORES,
) -> Iterator[Row]:
    """Yield the rows of the output from one on.

    Args:
        outcomes: The embeddings of all rows: of the picture and behind it of the text, of unit length, (2E,).
        form: What a row holds.
        folder: The folder of the file of embeddings.
        first: The number of rows that are left out, since they are written already.
        on_embedded: The receiver of the number of embedded rows.
        block_scores: The number of scores in memory.

    Raises:
        NasError: If an input cannot be read and `outcomes` raises its error.
        OSError: If the embeddings cannot be written.
    """
    images, texts = _Gallery(), _Gallery()
    entries: list[tuple[Input, NasError | None]] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for outcome in outcomes:
            if outcome.values is not None:
                images.add(outcome.input.image, outcome.input.image)
                texts.add(normal_text(outcome.input.text), outcome.input.text)
                file.write(outcome.values.numpy().astype(np.float32).tobytes())
            entries.append((outcome.input, outcome.error))
            on_embedded(len(entries))
        file.flush()
        embedded = len(images.items)
        pairs: NDArray[np.float32] = (
            np.memmap(file, np.float32, "r").reshape(embedded, 2, -1) if embedded else np.empty((0, 2, 1), np.float32)
        )
        done = sum(error is None for _, error in entries[:first])
        for start in range(first, len(entries), _QUERIES):
            chosen = entries[start : start + _QUERIES]
            rows = slice(done, done + sum(error is None for _, error in chosen))
            done = rows.stop
            found = zip(
                _best(pairs[:, 0], images, rows, pairs[:, 1], texts, form.top, block_scores),
                _best(pairs[:, 1], texts, rows, pairs[:, 0], images, form.top, block_scores),
                strict=True,
            )
            for entry, error in chosen:
                yield form.row(entry, ([], []) if error is not None else next(found), error)


def _best(
    queries: NDArray[np.float32],
    items: _Gallery,
    rows: slice,
    gallery: NDArray[np.float32],
    others: _Gallery,
    top: int,
    block_scores: int,
) -> list[Items]:
    """Return the best items of the other side for each of some rows.

    Args:
        queries: The embeddings of one side, (N, E).
        items: The items of that side.
        rows: The rows.
        gallery: The embeddings of the other side, (N, E).
        others: The items of that side.
        top: The number of items.
        block_scores: The number of scores in memory.
    """
    if rows.start == rows.stop:
        return []
    firsts, own = np.array(others.rows), np.array(items.rows)[items.items[rows]]
    width = max(block_scores // (rows.stop - rows.start), 1)
    blocks = (
        torch.from_numpy(gallery[firsts[start : start + width]]).double() for start in range(0, len(firsts), width)
    )
    scores, places = best_items(torch.from_numpy(queries[own]).double(), blocks, top)
    return [
        [(others.names[place], score) for place, score in zip(*row, strict=True)]
        for row in zip(places.tolist(), scores.tolist(), strict=True)
    ]
