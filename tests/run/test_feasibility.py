from dataclasses import dataclass, field
from typing import Any, cast

from nas.config.choices import Oversized
from nas.memory.calibration import PeakCalibration
from nas.memory.prediction import MemoryModel
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.feasibility import Feasibility, Fit
from nas.search.space import Architecture
from nas.storage.records import Rejection
from nas.storage.study import Study
from tests.support.factories import make_budget

SMALL, LARGE = PMFArchitecture(1, 1, 1, 1, 10), PMFArchitecture(1, 1, 1, 1, 100)


@dataclass
class Prediction:
    peak_bytes: int


def _width(architecture: Architecture) -> int:
    return cast(int, architecture.values()["mapping_width"])


class WidthMemory:
    """A peak of 100 bytes plus the mapping width divided by the micro-batches, with four samples in a batch."""

    idle_bytes = 0

    def __init__(self) -> None:
        self.predicted: set[Architecture] = set()

    def predict(self, architecture: Architecture, *, micro_batches: int = 1, budget_bytes: int = 0) -> Prediction:
        self.predicted.add(architecture)
        return Prediction(100 + _width(architecture) // micro_batches)

    def min_micro_batches(self, architecture: Architecture, budget_bytes: int) -> int | None:
        fitting = [parts for parts in range(1, 5) if 100 + _width(architecture) // parts <= budget_bytes]
        return min(fitting, default=None)


@dataclass
class Rejections:
    """A study that records rejections only."""

    rejections: list[Rejection] = field(default_factory=list)
    infeasible: list[tuple[Architecture, str, int]] = field(default_factory=list)

    def reject_infeasible(self, architecture: Architecture, reason: str, predicted: int) -> None:
        self.infeasible.append((architecture, reason, predicted))


def feasibility(
    budget_bytes: int,
    oversized: Oversized = "reject",
    correction: PeakCalibration | None = None,
    memory: WidthMemory | None = None,
    **notes: Any,
) -> tuple[Feasibility, Rejections]:
    study = Rejections(**notes)
    budget = make_budget(memory_bytes=budget_bytes, oversized=oversized)
    made = Feasibility(
        memory=cast(MemoryModel, memory or WidthMemory()),
        budget=budget,
        correction=correction,
        study=cast(Study, study),
        largest=[LARGE],
    )
    return made, study


def test_infeasible_architecture_is_recorded_once() -> None:
    found, study = feasibility(150)
    assert found.fit(SMALL) == Fit(110, 1) and found.fit(LARGE) is None
    assert [found.record_unless_fits(entry) for entry in (SMALL, LARGE, LARGE)] == [True, False, False]
    assert study.infeasible == [(LARGE, "predicted peak 200 B (200 bytes), budget 150 B", 200)]


def test_smaller_architectures_need_no_prediction_where_the_largest_fits() -> None:
    for budget, predicted in ((250, {LARGE}), (150, {LARGE, SMALL})):
        memory = WidthMemory()
        assert feasibility(budget, memory=memory)[0].fits(SMALL)
        assert memory.predicted == predicted


def test_accumulation_takes_the_largest_micro_batches_that_fit() -> None:
    found, study = feasibility(150, "accumulate")
    assert found.fit(SMALL) == Fit(110, 1) and found.fit(LARGE) == Fit(150, 2)
    found, _ = feasibility(120, "accumulate")
    assert found.fit(LARGE) is None  # not even single samples
    assert not study.infeasible


def test_measured_peaks_correct_predictions() -> None:
    found, _ = feasibility(150, "accumulate", PeakCalibration([(100, 110)]))
    assert found.fit(SMALL) == Fit(110, 1, 10) and found.fit(LARGE) == Fit(133, 3, 10)


def test_architecture_that_ran_out_of_memory_alone_fits_only_a_larger_budget() -> None:
    found, _ = feasibility(150)
    found.outgrew(SMALL)
    assert not found.fits(SMALL)
    rejection = Rejection(0, SMALL, "one_shot", "infeasible", "held too much", 110, 160)
    assert not feasibility(150, rejections=[rejection])[0].fits(SMALL)
    assert feasibility(200, rejections=[rejection])[0].fits(SMALL)
