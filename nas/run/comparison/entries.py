"""The entries of a comparison: fusion families with their defaults, and the architecture that a search has found."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from nas.common.errors import StudyError
from nas.common.progress import Reporter
from nas.common.sealed_json import write_sealed_json
from nas.config.schema import Config
from nas.data.contents import Contents
from nas.data.samples import Dataset
from nas.models.encoders.contrastive import has_head
from nas.models.fusion.base import sizes_of
from nas.run.build_help import build_helpers
from nas.run.cache_records import record_use
from nas.run.comparison.files import FACTS, read_stored
from nas.run.comparison.protocol import ALL_CLASSES, Protocol
from nas.run.contents import check_contents, write_contents
from nas.run.executors import ExecutionOptions
from nas.run.prepare import SearchContext, first_layers, prepare
from nas.run.sources import resolve_checkpoints
from nas.search.space import Architecture, SearchSpace
from nas.search.space.family_registry import FAMILIES, load_architecture_class

SEARCHED_FAMILY = "pmf"
"""The family that a comparison searches."""

SEARCHED = f"{SEARCHED_FAMILY}_searched"
"""The entry of the architecture that the search has found."""


def entry_names() -> tuple[str, ...]:
    """Return the entries of a comparison in the order of its table: other families first, then the searched one."""
    others = (name for name in FAMILIES if name != SEARCHED_FAMILY)
    return (*others, SEARCHED_FAMILY, SEARCHED)


def family_of(name: str) -> str:
    """Return the fusion family of an entry."""
    return SEARCHED_FAMILY if name == SEARCHED else name


def fitting_entries(config: Config, reporter: Reporter) -> tuple[str, ...]:
    """Return the entries whose families fit the encoders, in the order of the table; the others are named.

    Args:
        config: The configuration of the comparison.
        reporter: The receiver of messages.

    Raises:
        EncoderError: If an encoder does not exist.
    """
    names, checkpoints = entry_names(), resolve_checkpoints(config)
    if checkpoints[0] == checkpoints[1] and has_head(checkpoints[0]):
        return names
    left_out = [name for name in names if load_architecture_class(family_of(name)).reads_class_texts]
    if left_out:
        reporter.note(f"Left out, because they need one contrastive checkpoint as both encoders: {', '.join(left_out)}")
    return tuple(name for name in names if name not in left_out)


@dataclass(frozen=True)
class ComparisonSettings:
    """The settings that all entries of a comparison share.

    Args:
        config: The configuration of the comparison.
        source: The name of its file, for messages.
        directory: The directory of the comparison.
        seeds: The number of seeds of each entry.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        protocol: How models are trained and tested.
    """

    config: Config
    source: Path
    directory: Path
    seeds: int
    options: ExecutionOptions
    reporter: Reporter
    protocol: Protocol = ALL_CLASSES


@dataclass(frozen=True)
class Entry:
    """One line of the comparison, ready to be trained.

    Args:
        name: The name of the entry; see `entry_names`.
        folder: The folder of its files.
        config: The configuration, with a space around its architecture.
        prepared: The encoders, features and memory predictions.
        architecture: The architecture that is trained.
    """

    name: str
    folder: Path
    config: Config
    prepared: SearchContext
    architecture: Architecture

    @property
    def title(self) -> str:
        """The name of the entry for people."""
        return f"{self.architecture.title}, searched" if self.name == SEARCHED else self.architecture.title


def prepare_entry(
    settings: ComparisonSettings, name: str, found: Architecture | None, data_reporter: Reporter
) -> Entry:
    """Prepare encoders, features and memory predictions of an entry.

    Args:
        settings: The comparison.
        name: The name of the entry.
        found: The architecture that the search has found; None for the family's default.
        data_reporter: The receiver of messages about the data.

    Raises:
        NasError: If the data or an encoder cannot be used.
    """
    config = settings.config
    architecture_class = load_architecture_class(family_of(name))
    is_other = architecture_class is not config.space.architecture_class
    if is_other:
        config = config.replace(
            family=architecture_class.family,
            space=_smallest_space(architecture_class),
            search=config.search.replace(initial_architectures=()),
        )
    folder = settings.directory / name
    prepared = prepare(
        config,
        source=str(settings.source),
        cache_directory=settings.options.cache,
        reporter=data_reporter,
        verify=settings.options.verify,
        check=lambda dataset, contents: check_recorded(folder, config, dataset, contents),
        device=settings.options.workers_device,
        helpers=build_helpers(config, settings.options, data_reporter),
    )
    with contextlib.suppress(OSError):  # a cache that only others may write to is never cleaned from here
        record_use(prepared.store.directory, settings.directory)
    architecture = found or prepared.default
    sizes = sizes_of(prepared.image_encoder, prepared.text_encoder)
    if is_other:
        config = config.replace(space=SearchSpace.around(architecture, architecture_class.num_layers(sizes)))
    prepared.memory.first_layers = first_layers(config, sizes)
    prepared.memory.holds_supernet = False
    return Entry(name, folder, config, prepared, architecture)


def _smallest_space(architecture_class: type[Architecture]) -> SearchSpace:
    """Return the smallest space of a family, for as long as its encoders are unknown."""
    return SearchSpace(architecture_class, {gene.name: (gene.smallest,) for gene in architecture_class.genes})


def check_recorded(folder: Path, config: Config, dataset: Dataset, contents: Contents) -> None:
    """Check that the results of an entry belong to the same data and encoders.

    Args:
        folder: The folder of the entry.
        config: The configuration.
        dataset: The present samples of train and validation.
        contents: The content of the present data and encoders.

    Raises:
        StudyError: If they do not; names what has changed.
    """
    facts = read_stored(folder / FACTS, dict)
    if facts:
        check_contents(folder, facts["contents"], config, dataset, contents)


def check_facts(entry: Entry) -> None:
    """Check that the results of an entry belong to the same architecture, and record it with the data and encoders.

    Args:
        entry: The entry, whose data and encoders are those of its results.

    Raises:
        StudyError: If they do not.
    """
    path, contents = entry.folder / FACTS, entry.prepared.contents
    facts = {"contents": contents.summary(), "architecture": entry.architecture.as_dict()}
    stored = read_stored(path, dict).get("architecture", facts["architecture"])
    if stored != facts["architecture"]:
        raise StudyError(
            f"{entry.folder}: its architecture has changed since it was trained ({stored}, now "
            f"{facts['architecture']}); compare in a new directory (--run-dir)"
        )
    write_contents(entry.folder, contents)
    write_sealed_json(path, facts)
