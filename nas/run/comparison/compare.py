"""Compare fusion families on one data set, as in table 1 of the PMF paper (Li et al., CVPR 2023).

Every family is trained with one recipe and the learning rate that is best on validation for it, from one grid for all;
so are PMF's default and the architecture that a search over PMF has found. Only then is every model evaluated on the
test split, once, through the exported and reloaded model.

A comparison resumes from its directory: every finished training and every evaluation is in a file of its entry.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from nas.common.errors import ConfigError, StudyError
from nas.common.files import check_writable
from nas.common.progress import ProgressOnly, Reporter
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.run.comparison.entries import (
    SEARCHED,
    SEARCHED_FAMILY,
    ComparisonSettings,
    check_facts,
    fitting_entries,
    prepare_entry,
)
from nas.run.comparison.files import LOCK, SettingsFile, check_directory
from nas.run.comparison.protocol import ALL_CLASSES, Protocol, base_to_novel_entries, with_base_classes
from nas.run.comparison.report import write_report
from nas.run.comparison.searched import searched_architecture
from nas.run.comparison.testing import table_row
from nas.run.comparison.training import EntryTrainer, TrainedEntry
from nas.run.defaults import complete
from nas.run.executors import ExecutionOptions
from nas.run.search import apply_overrides
from nas.run.sources import check_encoders
from nas.run.surroundings import check_surroundings
from nas.storage.lease import Holder, LockFile


def compare(
    source: Path,
    directory: Path,
    *,
    names: Sequence[str] | None,
    seeds: int,
    overrides: Overrides,
    options: ExecutionOptions,
    reporter: Reporter,
    protocol: Protocol = ALL_CLASSES,
) -> None:
    """Compare families, or resume a comparison, and write its table.

    Args:
        source: The search file: data, encoders, recipe, PMF's space, the grid of learning rates, budgets.
        directory: The directory of the comparison.
        names: The entries; see `entry_names`. None for all that the encoders fit.
        seeds: The number of seeds of each entry.
        overrides: The values that replace those of the file; the budget applies to the search.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        protocol: How the models are trained and tested.

    Raises:
        NasError: If the search file, data, encoders or directory cannot be used, or the directory holds something else.
        Interrupted: If the user has interrupted the comparison.
    """
    draft = apply_overrides(load_config(source), overrides)
    if draft.data.is_retrieval:
        problem = "data.task: not supported by compare; expected classification, got retrieval"
        raise ConfigError(str(source), [problem])
    if protocol.is_base_to_novel:
        names = base_to_novel_entries(names)
        draft = with_base_classes(draft, source)
    config = complete(draft, source=str(source), reporter=reporter, device=options.workers_device)
    family = config.space.architecture_class.family
    if family != SEARCHED_FAMILY:
        raise StudyError(f"{source}: family: not supported by compare; expected {SEARCHED_FAMILY}, got {family}")
    check_encoders(config, source=str(source))
    entries = tuple(names) if names is not None else fitting_entries(config, reporter)
    check_directory(directory)
    check_writable(directory)
    check_surroundings(options, options.storage)
    directory.mkdir(parents=True, exist_ok=True)
    settings = ComparisonSettings(config, source, directory, seeds, options, reporter, protocol)
    with contextlib.closing(LockFile(directory / LOCK)) as lock:
        lock.write(Holder.current())
        trained = _train_all(settings, entries, overrides)
        rows = [table_row(settings, entry) for entry in trained]
    note = protocol.note or config.compare.note
    write_report(directory, rows, metric=config.search.objective, seeds=seeds, reporter=reporter, note=note)


def _train_all(settings: ComparisonSettings, names: Sequence[str], overrides: Overrides) -> list[TrainedEntry]:
    """Train all entries, one after another."""
    file = SettingsFile(settings.directory, settings.config, settings.seeds)
    trained = []
    for index, name in enumerate(names):
        settings.reporter.progress("comparison", index, len(names), name)
        found = searched_architecture(settings, overrides) if name == SEARCHED else None
        # Messages about the data are the same for all entries.
        data_reporter = settings.reporter if index == 0 else ProgressOnly(settings.reporter)
        entry = prepare_entry(settings, name, found, data_reporter)
        file.write()
        entry.folder.mkdir(exist_ok=True)
        check_facts(entry)
        trained.append(EntryTrainer(settings, entry).train())
    return trained
