"""The table of trainings: what a row holds, how it is kept, and what is asked of it."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.common.files import write_atomically
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.space import Architecture

TABLE = Path(__file__).with_name("demo.json")
"""The committed table."""


@dataclass(frozen=True)
class Row:
    """One training.

    Args:
        architecture: What was trained.
        seed: 0, 1, ...: of fresh weights and the order of samples, independent of those of any search.
        validation: Metrics on validation, as `nas.training.metrics.evaluate_logits` names them.
        test: The same on test. Nothing is chosen by them.
        trainable_parameters: How many.
        predicted_peak_bytes: Private memory of the worker, predicted.
        measured_peak_bytes: The same, measured in a few steps by a worker that gives back what it frees; None if that
            was not done yet.
        seconds: Of the training and its evaluation on validation, on a machine that may do other work.
    """

    architecture: Architecture
    seed: int
    validation: Mapping[str, float]
    test: Mapping[str, float]
    trainable_parameters: int
    predicted_peak_bytes: int
    measured_peak_bytes: int | None
    seconds: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        return cls(**{**values, "architecture": PMFArchitecture(**values["architecture"])})


class Table:
    """All trainings so far.

    Args:
        made_with: What the numbers depend on: recipe, data, encoders, versions.
        rows: At most one for an architecture and seed.
    """

    def __init__(self, made_with: Mapping[str, Any], rows: Iterable[Row]) -> None:
        self.made_with = made_with
        self.rows = sorted(rows, key=lambda row: (row.architecture, row.seed))

    @cached_property
    def by_architecture(self) -> dict[Architecture, dict[int, Row]]:
        """Architecture → seed → its training."""
        found: dict[Architecture, dict[int, Row]] = defaultdict(dict)
        for row in self.rows:
            found[row.architecture][row.seed] = row
        return dict(found)

    def means(self, metric: str, seeds: Iterable[int] = (0, 1), split: str = "validation") -> dict[Architecture, float]:
        """Architecture → mean over seeds, of those that were trained with all of these."""
        wanted = tuple(seeds)
        return {
            architecture: statistics.fmean(getattr(rows[seed], split)[metric] for seed in wanted)
            for architecture, rows in self.by_architecture.items()
            if all(seed in rows for seed in wanted)
        }

    def rows_of(self, metric: str, split: str = "validation") -> list[tuple[Architecture, float]]:
        """Every training's architecture and metric."""
        return [(row.architecture, getattr(row, split)[metric]) for row in self.rows]

    def seed_deviation(self, metric: str, split: str = "validation") -> float:
        """Standard deviation over seeds of one architecture, pooled over all with more than one seed."""
        squares, freedom = 0.0, 0
        for rows in self.by_architecture.values():
            values = [getattr(row, split)[metric] for row in rows.values()]
            squares += sum((value - statistics.fmean(values)) ** 2 for value in values)
            freedom += len(values) - 1
        if not freedom:
            raise ValueError("no architecture was trained with two seeds")
        return float((squares / freedom) ** 0.5)

    def write(self, path: Path) -> None:
        """Replace the file; one row a line, so that two versions compare well."""
        rows = ",\n".join(json.dumps(asdict(row)) for row in self.rows)
        write_atomically(
            path, f'{{"made_with": {json.dumps(self.made_with, indent=1)},\n"rows": [\n{rows}\n]}}\n'.encode()
        )


def read_table(path: Path = TABLE) -> Table:
    """What was written."""
    values = json.loads(path.read_text())
    return Table(values["made_with"], [Row.from_dict(row) for row in values["rows"]])
