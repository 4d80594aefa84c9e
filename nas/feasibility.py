"""Whether an architecture's training fits the memory budget of a device alone, and how: whole batches or parts."""

from dataclasses import dataclass

from nas.config import BudgetConfig
from nas.memory import MemoryModel, PeakCorrection
from nas.space import Architecture
from nas.study import Study
from nas.units import format_bytes


@dataclass(frozen=True)
class Fit:
    """How an architecture fits.

    Args:
        peak_bytes: Of its training, predicted.
        micro_batches: Parts that every batch is cut into.
    """

    peak_bytes: int
    micro_batches: int


class Feasibility:
    """What fits, by prediction, by what finished trainings have measured, and by who ran out of memory.

    Args:
        memory: Predicts.
        budget: Of a device, and what is done with who does not fit with whole batches.
        correction: What measurements say of the predictions; None to let nothing measured play a part.
        study: Remembers who does not fit.
    """

    def __init__(
        self, *, memory: MemoryModel, budget: BudgetConfig, correction: PeakCorrection | None, study: Study
    ) -> None:
        self._memory = memory
        self._budget = budget
        self._correction = correction
        self._study = study
        self._recorded = {entry.architecture for entry in study.rejections if entry.status == "infeasible"}
        self._outgrown = {
            entry.architecture
            for entry in study.rejections
            if entry.status == "infeasible" and (entry.measured_peak_bytes or 0) > budget.memory_bytes
        }

    def fit(self, architecture: Architecture) -> Fit | None:
        """How the architecture fits alone; None if it does not."""
        if architecture in self._outgrown:
            return None
        peak_bytes = self._peak_bytes(architecture, 1)
        if peak_bytes <= self._budget.memory_bytes:
            return Fit(peak_bytes, 1)
        if self._budget.when_too_large == "reject":
            return None
        parts = self._memory.most_fitting(architecture, self._budget.memory_bytes - self._correction_bytes)
        return None if parts is None else Fit(self._peak_bytes(architecture, parts), parts)

    def fits(self, architecture: Architecture) -> bool:
        return self.fit(architecture) is not None

    def record_unless_fits(self, architecture: Architecture) -> bool:
        """Whether it fits; one that does not is remembered, once."""
        if self.fits(architecture):
            return True
        if architecture not in self._recorded:
            self._recorded.add(architecture)
            peak_bytes = self._peak_bytes(architecture, 1)
            reason = (
                f"predicted peak {format_bytes(peak_bytes)} ({peak_bytes} bytes), budget "
                f"{format_bytes(self._budget.memory_bytes)}"
            )
            self._study.reject_infeasible(architecture, reason, peak_bytes)
        return False

    @property
    def _correction_bytes(self) -> int:
        return 0 if self._correction is None else self._correction.correction_bytes

    def _peak_bytes(self, architecture: Architecture, parts: int) -> int:
        """Predicted, and corrected; directly where it is near the budget."""
        correction = self._correction_bytes
        budget_bytes = self._budget.memory_bytes - correction
        prediction = self._memory.predict(architecture, micro_batches=parts, budget_bytes=budget_bytes)
        return prediction.peak_bytes + correction

    def outgrew(self, architecture: Architecture) -> None:
        """It ran out of memory although it was alone: it does not fit, whatever is predicted."""
        self._recorded.add(architecture)
        self._outgrown.add(architecture)
