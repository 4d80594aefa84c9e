"""The table of trainings: its rows, its file, and statistics over it."""

import base64
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.common.files import write_atomically
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.space import Architecture

TABLE = Path(__file__).with_name("demo.json")
"""The committed table."""
AUTO_TABLE = Path(__file__).with_name("demo_auto.json")
"""The table of trainings with the automatic recipe, which holds predictions."""


@dataclass(frozen=True)
class Row:
    """One training.

    Args:
        architecture: The trained architecture.
        seed: The seed of fresh weights and sample order (0, 1, ...), independent of the seeds of any search.
        validation: Metrics on validation, named as in `nas.training.metrics.evaluate_logits`.
        test: The same metrics on test; they are never used to choose anything.
        trainable_parameters: The number of trainable parameters.
        predicted_peak_bytes: The predicted private memory of the worker.
        measured_peak_bytes: The private memory measured in a few steps by a worker that returns the memory it frees;
            None if not measured yet.
        seconds: The time of training and evaluation on validation, on a machine that may run other programs.
        right: Whether the prediction of each sample is right, by split: bits in base64; None where it was not stored.
    """

    architecture: Architecture
    seed: int
    validation: Mapping[str, float]
    test: Mapping[str, float]
    trainable_parameters: int
    predicted_peak_bytes: int
    measured_peak_bytes: int | None
    seconds: float
    right: Mapping[str, str] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """Return the row that `dataclasses.asdict` turned into a dictionary."""
        return cls(**{**values, "architecture": PMFArchitecture(**values["architecture"])})


def pack(right: NDArray[np.bool_]) -> str:
    """Return bits in base64.

    Args:
        right: The bits, (samples,).
    """
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpack(text: str, count: int) -> NDArray[np.bool_]:
    """Return the bits that `pack` has written, (samples,).

    Args:
        text: The bits in base64.
        count: The number of samples.
    """
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=count).astype(bool)


class Table:
    """All trainings so far.

    Args:
        made_with: Everything that the numbers depend on: recipe, data, encoders, versions.
        rows: The trainings, at most one for each architecture and seed.
    """

    def __init__(self, made_with: Mapping[str, Any], rows: Iterable[Row]) -> None:
        self.made_with = made_with
        self.rows = sorted(rows, key=lambda row: (row.architecture, row.seed))

    @cached_property
    def by_architecture(self) -> dict[Architecture, dict[int, Row]]:
        """Return architecture → seed → training."""
        found: dict[Architecture, dict[int, Row]] = defaultdict(dict)
        for row in self.rows:
            found[row.architecture][row.seed] = row
        return dict(found)

    def means(self, metric: str, seeds: Iterable[int] = (0, 1), split: str = "validation") -> dict[Architecture, float]:
        """Return architecture → mean over seeds, for architectures trained with all of these seeds."""
        wanted = tuple(seeds)
        return {
            architecture: statistics.fmean(getattr(rows[seed], split)[metric] for seed in wanted)
            for architecture, rows in self.by_architecture.items()
            if all(seed in rows for seed in wanted)
        }

    def rows_of(self, metric: str, split: str = "validation") -> list[tuple[Architecture, float]]:
        """Return the architecture and the metric of every training."""
        return [(row.architecture, getattr(row, split)[metric]) for row in self.rows]

    def seed_deviation(self, metric: str, split: str = "validation") -> float:
        """Return the standard deviation over seeds of an architecture, pooled over all with more than one seed.

        Raises:
            ValueError: If no architecture has two seeds.
        """
        squares, freedom = 0.0, 0
        for rows in self.by_architecture.values():
            values = [getattr(row, split)[metric] for row in rows.values()]
            squares += sum((value - statistics.fmean(values)) ** 2 for value in values)
            freedom += len(values) - 1
        if not freedom:
            raise ValueError("table: no architecture has two seeds; expected at least one")
        return float((squares / freedom) ** 0.5)

    def write(self, path: Path) -> None:
        """Replace the file atomically, with one row per line, so that diffs are readable."""
        rows = ",\n".join(json.dumps(_without_none(asdict(row))) for row in self.rows)
        write_atomically(
            path, f'{{"made_with": {json.dumps(self.made_with, indent=1)},\n"rows": [\n{rows}\n]}}\n'.encode()
        )


def _without_none(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row without predictions that were not stored."""
    return {key: value for key, value in row.items() if key != "right" or value is not None}


def read_table(path: Path = TABLE) -> Table:
    """Read a table that `Table.write` wrote."""
    values = json.loads(path.read_text())
    return Table(values["made_with"], [Row.from_dict(row) for row in values["rows"]])
