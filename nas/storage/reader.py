"""Read a study without a lock and without write access, also while a driver writes to it."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna

from nas.common.boundary import reading
from nas.common.errors import StudyError
from nas.search.space import SearchSpace
from nas.storage.backends.open import open_storage
from nas.storage.contents import CONFIG, StudyContents
from nas.storage.integrity import Comparison
from nas.storage.write_log import WRITE_LOG, read_write_log


class StudyReader(StudyContents):
    """The candidates of one run at one moment.

    What the log in the run directory knows and the study lost or changed is taken from the log, with a warning: it is
    the copy with checksums.

    Args:
        directory: The run directory.
        space: The search space.
        name: The name of the run.
        storage: The URL of a database; None for a journal file in the run directory.
        config: The configuration of the search, compared with the stored one; None compares nothing.
        warn: Callback that receives a line about every loss.
        needs_storage: Whether a storage that cannot be read is an error even if the log has everything.

    Raises:
        StudyError: If neither the study nor its log can be read, or the study has another configuration or format.
    """

    def __init__(
        self,
        directory: Path,
        space: SearchSpace,
        *,
        name: str,
        storage: str | None = None,
        config: Mapping[str, Any] | None = None,
        warn: Callable[[str], object],
        needs_storage: bool = False,
    ) -> None:
        super().__init__(space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = directory / WRITE_LOG
        logged = read_write_log(path, name)  # first, so that a driver which is writing cannot make the study look older
        where = str(path)
        try:
            with closing(open_storage(directory, storage, name, warn, "read")) as opened:
                self._load(opened)
                where = opened.where
        except StudyError as error:
            if needs_storage or not logged.records:
                raise
            StudyContents.__init__(self, space)  # without what was read before the damage
            warn(f"{error}; its records are taken from {path}")
        else:
            if config is not None and CONFIG in self._attributes["one_shot"]:
                self._check_config(where, config)
            found = Comparison(logged, self.records(), requires_log=True)
            if found:
                warn(_warning(found, where, path))
        with reading(path, expected="the log of a study", error=StudyError, problem="is damaged"):
            self._merge(logged.records)


def _warning(found: Comparison, where: str, log: Path) -> str:
    if not found.missing and not found.changed:
        return f"{log}: {found.log_problem}, so that losses of {where} would not be noticed"
    return f"{where}: {found.problem(log)}; the records of the log are used"
