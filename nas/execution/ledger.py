"""Who may start under the memory budget of one device. Plain bookkeeping: no processes here."""

from collections.abc import Hashable


class Ledger:
    """Keeps the sum of the predicted peaks of all running jobs within a budget.

    Args:
        budget_bytes: Of the device.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._reserved: dict[Hashable, int] = {}

    @property
    def reserved_bytes(self) -> int:
        return sum(self._reserved.values())

    def fits_alone(self, peak_bytes: int) -> bool:
        return peak_bytes <= self.budget_bytes

    def admit(self, key: Hashable, peak_bytes: int) -> bool:
        """Reserve the bytes if they fit beside what is running; say whether they did.

        Raises:
            ValueError: If they could never fit, or the key is running already.
        """
        if not self.fits_alone(peak_bytes):
            raise ValueError(f"{key!r} needs {peak_bytes} bytes of a budget of {self.budget_bytes}")
        if key in self._reserved:
            raise ValueError(f"{key!r} is running already")
        if self.reserved_bytes + peak_bytes > self.budget_bytes:
            return False
        self._reserved[key] = peak_bytes
        return True

    def release(self, key: Hashable) -> None:
        """Give back what a job had reserved."""
        del self._reserved[key]

    def holds(self, key: Hashable) -> bool:
        """Whether something is reserved for a job."""
        return key in self._reserved
