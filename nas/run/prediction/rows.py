"""The columns of a table of predictions, and the cells of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from nas.run.prediction.batches import Outcome

Kind = Literal["integer", "text", "texts", "number", "numbers"]
Cell = int | float | str | list[str] | list[float] | None

_DIGITS = 6
"""Significant digits of probabilities: those that a number of 32 bits has."""


class Column(NamedTuple):
    """A column of the table.

    Args:
        name: Its name.
        kind: The kind of its cells, each of which may be empty instead.
    """

    name: str
    kind: Kind


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Args:
        names: The names in the order of the logits.
        threshold: The probability above which a label is predicted, where a sample may have several; else None.
    """

    names: tuple[str, ...]
    threshold: float | None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits: over the classes, or of each label independently."""
        return logits.softmax(dim=-1) if self.threshold is None else logits.sigmoid()


@dataclass(frozen=True)
class RowForm:
    """What a row of predictions holds.

    Args:
        classes: The classes of the model.
        has_ids: Whether rows are named by a column of ids instead of their number.
        top: The number of most probable classes to list, in columns of their own.
        all_probabilities: Whether there is a column with the probability of each class.
        has_errors: Whether there is a column of errors.
    """

    classes: Classes
    has_ids: bool = False
    top: int = 0
    all_probabilities: bool = False
    has_errors: bool = False

    @property
    def columns(self) -> list[Column]:
        """The columns in order."""
        several = self.classes.threshold is not None
        columns = [
            Column("id", "text") if self.has_ids else Column("row", "integer"),
            Column("prediction", "texts" if several else "text"),
            Column("probability", "numbers" if several else "number"),
        ]
        for rank in range(1, self._listed + 1):
            columns += [Column(f"top_{rank}", "text"), Column(f"top_{rank}_probability", "number")]
        if self.all_probabilities:
            columns += [Column(f"probability_{name}", "number") for name in self.classes.names]
        if self.has_errors:
            columns.append(Column("error", "text"))
        return columns

    @property
    def _listed(self) -> int:
        return min(self.top, len(self.classes.names))

    def cells(self, outcome: Outcome) -> list[Cell]:
        """Return the cells of a row, one for each column."""
        entry = outcome.input
        cells: list[Cell] = [entry.id if self.has_ids else entry.number]
        if outcome.values is None:
            empty = len(self.columns) - 1 - self.has_errors
            return [*cells, *([None] * empty), *([str(outcome.error)] if self.has_errors else [])]
        probabilities = [significant(value) for value in self.classes.probabilities(outcome.values).tolist()]
        # Ranked by logits: probabilities near 1 may be equal.
        ranking: list[int] = outcome.values.sort(descending=True, stable=True).indices.tolist()
        cells += self._prediction(probabilities, ranking)
        for index in ranking[: self._listed]:
            cells += [self.classes.names[index], probabilities[index]]
        if self.all_probabilities:
            cells += probabilities
        return [*cells, None] if self.has_errors else cells

    def _prediction(self, probabilities: Sequence[float], ranking: Sequence[int]) -> list[Cell]:
        names, threshold = self.classes.names, self.classes.threshold
        if threshold is None:
            return [names[ranking[0]], probabilities[ranking[0]]]
        predicted = [index for index in ranking if probabilities[index] > threshold]
        return [[names[index] for index in predicted], [probabilities[index] for index in predicted]]


def significant(value: float) -> float:
    """Return a probability with the digits that it has."""
    return float(f"{value:.{_DIGITS}g}")
