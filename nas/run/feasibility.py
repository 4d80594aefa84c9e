"""Decide whether the training of an architecture fits the memory budget, in whole batches or in micro-batches."""

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
    """The way in which an architecture fits.

    Args:
        peak_bytes: The predicted peak of its training.
        micro_batches: The number of micro-batches of every batch.
        correction_bytes: The correction of the prediction by measured peaks.
    """

    peak_bytes: int
    micro_batches: int
    correction_bytes: int = 0


class Feasibility:
    """The rule for what fits: predictions, their correction by measured peaks, and trainings that ran out of memory.

    Args:
        memory: The memory predictions.
        budget: The memory budget of a device, and the rule for candidates that do not fit in whole batches.
        correction: The correction of predictions by measured peaks; None to ignore measurements.
        study: The record of infeasible candidates.
        largest: The largest architectures of the space. Every size only adds tensors: if these fit, all do.
        constraints: The constraints of the search; an architecture that is known to violate one does not fit.
    """

    def __init__(
        self,
        *,
        memory: MemoryModel,
        budget: BudgetConfig,
        correction: PeakCalibration | None,
        study: Study,
        largest: Sequence[Architecture],
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._memory = memory
        memory_bound = memory_constraint(constraints)
        self._max_bytes = int(min(budget.memory_bytes, math.inf if memory_bound is None else memory_bound.bound))
        self._constraints = tuple(constraints)
        self._budget = budget
        self._correction = correction
        self._study = study
        self._largest = tuple(largest)
        self._known_fit: tuple[tuple[int, int], bool] | None = None  # for the last budget and idle memory
        self._recorded = {entry.architecture for entry in study.rejections if entry.status == "infeasible"}
        self._outgrown = {
            entry.architecture
            for entry in study.rejections
            if entry.status == "infeasible" and (entry.measured_peak_bytes or 0) > budget.memory_bytes
        }

    def fit(self, architecture: Architecture) -> Fit | None:
        """Return how an architecture fits on an otherwise idle device; None if it does not.

        Args:
            architecture: The architecture.
        """
        if self._is_ruled_out(architecture):
            return None
        correction_bytes = self._correction_bytes
        budget_bytes = self._max_bytes - correction_bytes
        # Near the budget, the prediction is exact rather than interpolated.
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
        """Return whether an architecture fits on an otherwise idle device, without its prediction if the largest fit.

        Args:
            architecture: The architecture.
        """
        if self._is_ruled_out(architecture):
            return False
        return self._all_fit(self._max_bytes - self._correction_bytes) or self.fit(architecture) is not None

    def _all_fit(self, budget_bytes: int) -> bool:
        """Return whether all architectures of the space fit a budget."""
        key = budget_bytes, self._memory.idle_bytes
        if self._known_fit is None or self._known_fit[0] != key:
            peaks = (self._memory.predict(entry, budget_bytes=budget_bytes).peak_bytes for entry in self._largest)
            self._known_fit = key, all(peak <= budget_bytes for peak in peaks)
        return self._known_fit[1]

    def record_unless_fits(self, architecture: Architecture) -> bool:
        """Return whether an architecture fits; one that does not is recorded in the study, once.

        Args:
            architecture: The architecture.
        """
        if self.fits(architecture):
            return True
        if architecture not in self._recorded:
            self._recorded.add(architecture)
            peak_bytes = self._memory.predict(architecture).peak_bytes
            reason = (
                f"predicted peak {format_bytes(peak_bytes)} ({peak_bytes} bytes), budget "
                f"{format_bytes(self._max_bytes)}"
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
        """Exclude an architecture that ran out of memory on an otherwise idle device, regardless of its prediction.

        Args:
            architecture: The architecture.
        """
        self._recorded.add(architecture)
        self._outgrown.add(architecture)
