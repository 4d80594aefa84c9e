"""Correct predicted peaks by the measured peaks of finished trainings."""

import statistics
from collections.abc import Iterable

from nas.common.units import format_bytes

_MIN_MEASUREMENTS = 20
"""Measurements required before predictions are lowered."""


class PeakCalibration:
    """Estimates the systematic difference between predicted and measured peaks, in bytes.

    The estimate is cautious: with the correction, no observed peak would have been predicted too low. A single
    measurement above its prediction raises all later predictions. Many measurements below, and none above, lower them
    by the smallest difference. The order of measurements does not matter.

    Args:
        pairs: The predicted (uncorrected) and measured bytes of finished trainings.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._pairs: list[tuple[int, int]] = []
        self._largest_difference: int | None = None
        for predicted_bytes, measured_bytes in pairs:
            self.observe(predicted_bytes, measured_bytes)

    def observe(self, predicted_bytes: int, measured_bytes: int) -> None:
        """Add a finished training.

        Args:
            predicted_bytes: The predicted peak, uncorrected.
            measured_bytes: The measured peak.
        """
        self._pairs.append((predicted_bytes, measured_bytes))
        difference = measured_bytes - predicted_bytes
        known = self._largest_difference
        self._largest_difference = difference if known is None else max(known, difference)

    @property
    def correction_bytes(self) -> int:
        """The bytes to add to predictions; negative if all of many predictions were too high."""
        largest = self._largest_difference or 0
        return largest if largest > 0 or len(self._pairs) >= _MIN_MEASUREMENTS else 0

    def summary(self) -> str | None:
        """Return one line for the report; None if no training was measured."""
        if not self._pairs:
            return None
        errors = [abs(predicted - measured) / predicted for predicted, measured in self._pairs]
        underestimate = max(0, *(measured - predicted for predicted, measured in self._pairs))
        correction = self.correction_bytes
        return (
            f"predicted memory: median error {statistics.median(errors):.1%} over {len(self._pairs)} trainings, "
            f"largest underestimate {format_bytes(underestimate)}; correction {'−' if correction < 0 else '+'}"
            f"{format_bytes(abs(correction))}"
        )
