"""What the report of a run needs to know about its encoders, data and plan, stored as the search starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.run.time_budget import Phase
from nas.search.space import EncoderSizes
from nas.search.trial import to_count, to_number

SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunSummary:
    """What is known of a run before anything is trained.

    Args:
        sizes: The sizes of both encoders.
        samples: The number of samples of each class, by split (train and validation) and class name.
        images: The number of images of each split.
        plan: The planned seconds of each phase; empty without a time budget.
    """

    sizes: EncoderSizes
    samples: Mapping[str, Mapping[str, int]]
    images: Mapping[str, int]
    plan: Mapping[str, float] = field(default_factory=dict)


def write_summary(directory: Path, summary: RunSummary) -> None:
    """Store a summary durably.

    Args:
        directory: The run directory.
        summary: The summary.

    Raises:
        OSError: If it cannot be written.
    """
    write_sealed_json(directory / SUMMARY, asdict(summary))


def read_summary(directory: Path) -> RunSummary | None:
    """Return the stored summary of a run; None if it has none.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the file is damaged.
    """
    path = directory / SUMMARY
    if not path.exists():
        return None
    return read_sealed_json(
        path, _to_summary, expected="the summary of a run", remedy="delete it; `resume` writes it again"
    )


def write_plan(directory: Path, seconds: Mapping[Phase, float]) -> None:
    """Add the planned time of each phase to the summary of a run, if it has one.

    Args:
        directory: The run directory.
        seconds: The planned seconds of each phase.

    Raises:
        OSError: If it cannot be written.
    """
    summary = read_summary(directory)
    if summary is not None:
        write_summary(directory, replace(summary, plan={str(phase): value for phase, value in seconds.items()}))


def _to_summary(values: Mapping[str, Any]) -> RunSummary:
    sizes = values["sizes"]
    layers = {name: to_count(name, value) for name, value in sizes.items() if name != "pool_by_mean"}
    image_pools, text_pools = map(bool, sizes["pool_by_mean"])
    return RunSummary(
        sizes=EncoderSizes(**layers, pool_by_mean=(image_pools, text_pools)),
        samples={str(split): _to_counts(counts) for split, counts in values["samples"].items()},
        images=_to_counts(values["images"]),
        plan={str(name): to_number(name, seconds) for name, seconds in values["plan"].items()},
    )


def _to_counts(values: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): to_count(name, value) for name, value in values.items()}
