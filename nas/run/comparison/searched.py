"""Search the architecture of the searched entry of a comparison."""

from nas.common.errors import StudyError
from nas.common.progress import PartReporter
from nas.common.sealed_json import write_sealed_json
from nas.config.overrides import Overrides
from nas.run.comparison.entries import SEARCHED, ComparisonSettings
from nas.run.comparison.files import FACTS, FAILURES, FOUND, SEARCH, TRAININGS, read_stored
from nas.run.directory import is_run, read_run
from nas.run.search import start
from nas.run.select import best_full
from nas.search.space import Architecture


def searched_architecture(settings: ComparisonSettings, overrides: Overrides) -> Architecture:
    """Return the best architecture of a search on train and validation.

    With another budget the search is resumed, as long as its result has not been trained.

    Args:
        settings: The comparison.
        overrides: The values in place of the search file's.

    Raises:
        StudyError: If the search has no result.
        Interrupted: If the user has interrupted it.
    """
    run, path = settings.directory / SEARCH, settings.directory / FOUND
    if path.exists() and is_run(run) and _has_other_budget(settings):
        trained = settings.directory / SEARCHED
        if (trained / TRAININGS).exists():
            settings.reporter.note(
                "The search keeps its budget, because trainings of its result have begun; to change the budget, "
                "compare in a new directory (--run-dir)"
            )
        else:
            for name in (FACTS, FAILURES):  # they belong to the earlier result
                (trained / name).unlink(missing_ok=True)
            path.unlink()
    if not path.exists():
        start(settings.source, run, overrides, settings.options, PartReporter(settings.reporter), concludes=False)
        found = best_full(run, settings.options.storage)
        if found is None:
            raise StudyError(
                f"{run}: no completely trained candidate of the search meets its constraints; use a larger --budget"
            )
        write_sealed_json(path, found.architecture.as_dict())
    return read_stored(path, Architecture.from_dict)


def _has_other_budget(settings: ComparisonSettings) -> bool:
    before, budget = read_run(settings.directory / SEARCH).config.budget, settings.config.budget
    return (before.time_seconds, before.trials) != (budget.time_seconds, budget.trials)
