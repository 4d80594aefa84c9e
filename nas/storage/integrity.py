"""Compare a study with the log of its writes: what was lost, what was changed, and whether it can be restored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.common.errors import StudyError
from nas.storage.write_log import SUPERNET_KEY, LoggedWrites, Records, as_text


class Comparison:
    """The differences of a study from the log of its writes; false if there are none.

    What the study holds beyond the log is no difference, because the log is written last.

    Args:
        logged: The content of the log.
        stored: What the study holds.
        requires_log: Whether a missing log is a difference also for a study without candidates.
    """

    def __init__(self, logged: LoggedWrites, stored: Records, *, requires_log: bool) -> None:
        self._count = len(logged.records)
        self.log_problem = logged.problem if requires_log or stored or self._count else None
        self.missing = {key: values for key, values in logged.records.items() if key not in stored}
        """The records that the study has lost."""
        self.changed = {
            key: values
            for key, values in logged.records.items()
            # A kill may part the replacement of the supernet from the log; scores are checked against its file.
            if key in stored and key != SUPERNET_KEY and as_text(values) != as_text(stored[key])
        }
        """The records that the study holds with other values, with those of the log."""
        self._stored = stored

    def __bool__(self) -> bool:
        return bool(self.log_problem or self.missing or self.changed)

    def problem(self, log: Path) -> str:
        """Return what a study lost or changed, without its name.

        Args:
            log: The file of the log.
        """
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_listed(self.missing)})")
        if self.changed:
            parts.append(f"{len(self.changed)} changed ({_listed(self.changed)}; {self._first_change()})")
        kept = self._count - len(self.missing) - len(self.changed)
        return (
            f"does not hold what this run has stored in it; expected the {self._count} records of {log}, got {kept} of "
            f"them: {', '.join(parts)}"
        )

    def _first_change(self) -> str:
        key, before = next(iter(self.changed.items()))
        after = self._stored[key]
        name = next(name for name in {**before, **after} if before.get(name) != after.get(name))
        return f"{name} was {before.get(name)!r}, is {after.get(name)!r}"

    def error(self, where: str, log: Path) -> StudyError:
        """Return the error for a driver.

        Args:
            where: The name of the storage.
            log: The file of the log.
        """
        if not self.missing and not self.changed:
            return StudyError(
                f"{log}: {self.log_problem}; expected the log of everything that {where} has stored; restore a copy of "
                "it, or resume with --accept-changed, which writes it again from the study without checking that"
            )
        return StudyError(
            f"{where}: {self.problem(log)}; restore the newest copy of it, or resume with --accept-changed, which "
            "restores missing records from the log and keeps changed ones"
        )

    def outcome(self, where: str, log: Path) -> str:
        """Return the line about a study whose changes were accepted.

        Args:
            where: The name of the storage.
            log: The file of the log.
        """
        parts = [
            f"{len(self.missing)} missing record(s) restored from {log}" if self.missing else "",
            f"{len(self.changed)} changed record(s) kept as they are ({_listed(self.changed)})" if self.changed else "",
            f"the log {self.log_problem} and was written again" if self.log_problem else "",
        ]
        return f"Accepted changes of {where}: {', '.join(filter(None, parts))}"


def _listed(records: Mapping[str, Any]) -> str:
    """Return the names of the first records, for instance `result of candidate 3, full`."""
    names = list(records)[:3]
    return ", ".join(names) + (", …" if len(records) > len(names) else "")


def check_restorable(missing: Records, stored: Records, where: str) -> None:
    """Check that lost candidates would get their old numbers, which a storage gives in order.

    Args:
        missing: The records that were lost.
        stored: The records that are left.
        where: The name of the storage.

    Raises:
        StudyError: If they would get others.
    """
    left = sorted(_created(stored))
    lost = [number for number in _created(missing) if number not in set(left)]
    if left + lost != list(range(len(left) + len(lost))):
        raise StudyError(
            f"{where}: its lost candidates cannot be restored under their numbers; expected the numbers after "
            f"{left[-1] if left else 'none'} to be lost, got {', '.join(map(str, lost[:5]))}; restore a copy of the "
            "database, or delete the study in it and resume with --accept-changed"
        )


def _created(records: Records) -> list[int]:
    """Return the numbers that were given to new candidates, in the order of the records."""
    numbers = dict.fromkeys(
        int(key.rpartition(" ")[2]) for key in records if key.startswith(("start ", "rejection one_shot "))
    )
    return list(numbers)
