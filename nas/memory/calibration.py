"""Correct predictions by what finished trainings have really held."""

import statistics
from collections.abc import Iterable

from nas.common.units import format_bytes

_AGREEING = 20
"""Measurements that have to agree before predictions are lowered."""


class PeakCalibration:
    """Learns a systematic difference between predicted and measured peaks, in bytes.

    Cautious: with the correction, no peak seen so far would have been predicted too low. One measurement above its
    prediction raises all later ones; many below, and none above, lower them by what the least of them was below. The
    order of measurements plays no part.

    Args:
        pairs: Predicted (uncorrected) and measured bytes of every training so far, for instance of stored results.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._pairs: list[tuple[int, int]] = []
        self._largest: int | None = None
        for predicted_bytes, measured_bytes in pairs:
            self.observe(predicted_bytes, measured_bytes)

    def observe(self, predicted_bytes: int, measured_bytes: int) -> None:
        """One more finished training.

        Args:
            predicted_bytes: Its prediction, uncorrected.
            measured_bytes: Its peak.
        """
        self._pairs.append((predicted_bytes, measured_bytes))
        difference = measured_bytes - predicted_bytes
        self._largest = difference if self._largest is None else max(self._largest, difference)

    @property
    def correction_bytes(self) -> int:
        """What is added to predictions; below 0 where all were too high."""
        largest = self._largest or 0
        return largest if largest > 0 or len(self._pairs) >= _AGREEING else 0

    def summary(self) -> str:
        """One line for the report."""
        if not self._pairs:
            return "predicted peaks: no training to compare them with (those that kept what they freed do not count)"
        errors = [abs(predicted - measured) / predicted for predicted, measured in self._pairs]
        under = max(0, *(measured - predicted for predicted, measured in self._pairs))
        correction = self.correction_bytes
        return (
            f"predicted peaks: {len(self._pairs)} measured, median error {statistics.median(errors):.1%}, largest "
            f"under-prediction {format_bytes(under)}, later predictions corrected by "
            f"{'−' if correction < 0 else '+'}{format_bytes(abs(correction))}"
        )
