"""Whether an architecture's training fits the memory budget of a device alone, and how: whole batches or parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.common.units import format_bytes
from nas.config.schema import BudgetConfig
from nas.memory.calibration import PeakCalibration
from nas.memory.prediction import MemoryModel
from nas.search.objectives import Constraint, broken_prediction, memory_constraint
from nas.search.space import Architecture
from nas.storage.study import Study


@dataclass(frozen=True)
class Fit:
    """How an architecture fits.

    Args:
        peak_bytes: Of its training, predicted.
        micro_batches: Parts that every batch is cut into.
        correction_bytes: What measured peaks have added to the prediction, or taken from it.
    """

    peak_bytes: int
    micro_batches: int
    correction_bytes: int = 0


class Feasibility:
    """What fits, by prediction, by what finished trainings have measured, and by who ran out of memory.

    Args:
        memory: Predicts.
        budget: Of a device, and what is done with who does not fit with whole batches.
        correction: What measurements say of the predictions; None to let nothing measured play a part.
        study: Remembers who does not fit.
        largest: Of the space. Every gene only adds tensors, so where it fits the budget, all do.
        constraints: Bounds; those on what is known without running it make it not fit.
    """

    def __init__(
        self,
        *,
        memory: MemoryModel,
        budget: BudgetConfig,
        correction: PeakCalibration | None,
        study: Study,
        largest: Architecture,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._memory = memory
        memory_bound = memory_constraint(constraints)
        self._most_bytes = int(min(budget.memory_bytes, math.inf if memory_bound is None else memory_bound.bound))
        self._constraints = tuple(constraints)
        self._budget = budget
        self._correction = correction
        self._study = study
        self._largest = largest
        self._recorded = {entry.architecture for entry in study.rejections if entry.status == "infeasible"}
        self._outgrown = {
            entry.architecture
            for entry in study.rejections
            if entry.status == "infeasible" and (entry.measured_peak_bytes or 0) > budget.memory_bytes
        }

    def fit(self, architecture: Architecture) -> Fit | None:
        """How the architecture fits alone; None if it does not."""
        if self._is_ruled_out(architecture):
            return None
        correction_bytes = self._correction_bytes
        budget_bytes = self._most_bytes - correction_bytes
        # Directly where it is near the budget.
        peak_bytes = self._memory.predict(architecture, budget_bytes=budget_bytes).peak_bytes
        if peak_bytes <= budget_bytes:
            return Fit(peak_bytes, 1, correction_bytes)
        if self._budget.oversized == "reject":
            return None
        parts = self._memory.min_micro_batches(architecture, budget_bytes)
        if parts is None:
            return None
        prediction = self._memory.predict(architecture, micro_batches=parts, budget_bytes=budget_bytes)
        return Fit(prediction.peak_bytes, parts, correction_bytes)

    def fits(self, architecture: Architecture) -> bool:
        """Whether it fits alone; predicts nothing of it where the largest fits."""
        if self._is_ruled_out(architecture):
            return False
        budget_bytes = self._most_bytes - self._correction_bytes
        largest_bytes = self._memory.predict(self._largest, budget_bytes=budget_bytes).peak_bytes
        return largest_bytes <= budget_bytes or self.fit(architecture) is not None

    def record_unless_fits(self, architecture: Architecture) -> bool:
        """Whether it fits; one that does not is remembered, once."""
        if self.fits(architecture):
            return True
        if architecture not in self._recorded:
            self._recorded.add(architecture)
            peak_bytes = self._memory.predict(architecture).peak_bytes
            reason = (
                f"predicted peak {format_bytes(peak_bytes)} ({peak_bytes} bytes), budget "
                f"{format_bytes(self._most_bytes)}"
            )
            broken = broken_prediction(self._constraints, self._memory, architecture)
            if broken is not None:
                constraint, value = broken
                reason = f"constraint {constraint}: got {value:.17g}"
            self._study.reject_infeasible(architecture, reason, peak_bytes)
        return False

    @property
    def _correction_bytes(self) -> int:
        return 0 if self._correction is None else self._correction.correction_bytes

    def _is_ruled_out(self, architecture: Architecture) -> bool:
        return architecture in self._outgrown or self._breaks_constraint(architecture)

    def _breaks_constraint(self, architecture: Architecture) -> bool:
        return broken_prediction(self._constraints, self._memory, architecture) is not None

    def outgrew(self, architecture: Architecture) -> None:
        """It ran out of memory although it was alone: it does not fit, whatever is predicted."""
        self._recorded.add(architecture)
        self._outgrown.add(architecture)
