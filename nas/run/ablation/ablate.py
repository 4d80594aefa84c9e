"""Ablate an architecture: vary one gene at a time, train every variant completely with all seeds, and compare.

An ablation resumes from its directory: every finished training and every evaluation is in a file. A training is
identified by its architecture and its seed, so that further genes and seeds can be asked for later.
"""

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.common.boundary import json_value, shown
from nas.common.errors import ArgumentError, StudyError
from nas.common.files import check_writable
from nas.common.progress import Reporter
from nas.common.sealed_json import as_stored, write_sealed_json
from nas.common.seeds import seed_from
from nas.common.units import format_bytes
from nas.config.diff import differences
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.config.places import without_places
from nas.config.schema import Config
from nas.models.fusion.base import sizes_of
from nas.run.ablation.report import AblatedRow, write_report
from nas.run.ablation.rows import (
    AblationRow,
    GeneRequest,
    ablation_rows,
    base_architecture,
    digest_of,
    space_of_rows,
)
from nas.run.build_help import build_helpers
from nas.run.cache_records import record_use
from nas.run.comparison.entries import ComparisonSettings, Entry, check_facts, check_recorded
from nas.run.comparison.files import LOCK, check_directory, read_stored
from nas.run.comparison.full_trainings import FullTrainings
from nas.run.comparison.testing import frozen_bytes, metrics_on_test
from nas.run.defaults import complete, encoder_sizes
from nas.run.directory import is_run
from nas.run.executors import ExecutionOptions
from nas.run.prepare import first_layers, prepare
from nas.run.search import apply_overrides
from nas.run.select import best_full
from nas.run.surroundings import check_surroundings
from nas.search.keys import AblationKey, ModelKey
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import Job, Result
from nas.storage.lease import Holder, LockFile
from nas.training.trainer import full_step_count

SETTINGS = "ablation.json"
"""The file with everything that the scores of an ablation depend on, besides the data."""


@dataclass(frozen=True)
class AblationOrder:
    """What an ablation trains.

    Args:
        genes: The genes that are varied; none for all.
        architecture: Values of genes as JSON, the directory of a run whose best architecture is meant, or None for the
            family's default.
        seeds: The number of seeds of each variant.
        evaluates_test: Whether every model is evaluated on the test split as well.
        time_seconds: The time after which this session trains nothing more; None for no limit.
        trainings: The number of trainings, those of earlier sessions included; None for all.
    """

    genes: Sequence[GeneRequest] = ()
    architecture: str | None = None
    seeds: int = 3
    evaluates_test: bool = False
    time_seconds: float | None = None
    trainings: int | None = None


def ablate(
    source: Path,
    directory: Path,
    order: AblationOrder,
    *,
    overrides: Overrides,
    options: ExecutionOptions,
    reporter: Reporter,
) -> None:
    """Train the variants of an architecture, or resume an ablation, and write its table.

    Args:
        source: The search file: data, encoders, recipe, space, memory budget.
        directory: The directory of the ablation.
        order: What is trained.
        overrides: The values that replace those of the file.
        options: The workers and the cluster.
        reporter: The receiver of messages.

    Raises:
        NasError: If the search file, data, encoders, genes or directory cannot be used, or the directory holds another
            ablation.
        Interrupted: If the user has interrupted the ablation.
    """
    draft = apply_overrides(load_config(source), overrides)
    config = complete(draft, source=str(source), reporter=reporter, device=options.workers_device)
    sizes = encoder_sizes(config, (config.encoders.image, config.encoders.text))
    architecture_class = config.space.architecture_class
    is_retrieval = config.data.is_retrieval
    base = _base(order.architecture, config) or base_architecture(
        architecture_class, sizes, _genes_of(order.architecture), is_retrieval=is_retrieval
    )
    rows = ablation_rows(base, order.genes, config.space, sizes, is_retrieval=is_retrieval)
    check_directory(directory, SETTINGS, "ablation")
    check_writable(directory)
    check_surroundings(options, None)
    directory.mkdir(parents=True, exist_ok=True)
    settings = ComparisonSettings(config, source, directory, order.seeds, options, reporter)
    with contextlib.closing(LockFile(directory / LOCK)) as lock:
        lock.write(Holder.current())
        values = _checked_settings(directory, config)
        entry = _prepare(settings, base, space_of_rows(rows, architecture_class.num_layers(sizes)))
        write_sealed_json(directory / SETTINGS, values)
        check_facts(entry)
        ablated = _Ablation(settings, entry, order, rows).run()
    write_report(directory, base, ablated, metric=config.search.objective, seeds=order.seeds, reporter=reporter)


def _base(text: str | None, config: Config) -> Architecture | None:
    """Return the best architecture of a run where one is named; None otherwise.

    Raises:
        ArgumentError: If the text is neither a run nor JSON, or the run has no such architecture.
    """
    if text is None or text.lstrip().startswith("{"):
        return None
    directory, expected = Path(text), 'values of genes such as {"fusion_layer": 3}, or the directory of a run'
    if not is_run(directory):
        raise ArgumentError(f"--architecture: not found; expected {expected}, got {shown(text)}")
    result = best_full(directory)
    if result is None:
        raise ArgumentError(f"--architecture {text}: the run has no completely trained candidate; expected {expected}")
    if result.architecture.family != config.family:
        raise ArgumentError(
            f"--architecture {text}: wrong family; expected a run of {config.family}, got {result.architecture.family}"
        )
    return result.architecture


def _genes_of(text: str | None) -> Mapping[str, Any] | None:
    """Return the genes that a JSON text gives.

    Raises:
        ArgumentError: If it is not a JSON object.
    """
    if text is None:
        return None
    try:
        values = json_value(text)
    except ValueError as error:
        raise ArgumentError(f"--architecture: invalid JSON ({error}); expected an object, got {shown(text)}") from error
    assert isinstance(values, dict)  # the text begins with a brace
    return values


def _checked_settings(directory: Path, config: Config) -> dict[str, Any]:
    """Return what the scores depend on, besides data and architectures.

    The space does not belong to it: it only lists the architectures.

    Raises:
        StudyError: If the directory holds an ablation with other settings.
    """
    values = without_places(config.as_dict())
    del values["space"]
    stored: dict[str, Any] = as_stored(values)
    changed = differences(read_stored(directory / SETTINGS, dict) or stored, stored)
    if changed:
        lines = "\n".join(f"  - {line}" for line in changed)
        raise StudyError(f"{directory}: holds another ablation:\n{lines}\nablate in a new directory (--run-dir)")
    return stored


def _prepare(settings: ComparisonSettings, base: Architecture, space: SearchSpace) -> Entry:
    """Prepare encoders, features and memory predictions for all variants."""
    folder, options = settings.directory, settings.options
    search = settings.config.search.replace(initial_architectures=())
    config = settings.config.replace(space=space, search=search)
    prepared = prepare(
        config,
        source=str(settings.source),
        cache_directory=options.cache,
        reporter=settings.reporter,
        verify=options.verify,
        check=lambda dataset, contents: check_recorded(folder, config, dataset, contents),
        device=options.workers_device,
        helpers=build_helpers(config, options, settings.reporter),
    )
    with contextlib.suppress(OSError):  # a cache that only others may write to is never cleaned from here
        record_use(prepared.store.directory, folder)
    prepared.memory.first_layers = first_layers(config, sizes_of(prepared.image_encoder, prepared.text_encoder))
    prepared.memory.holds_supernet = False
    return Entry(base.family, folder, config, prepared, base)


class _Ablation:
    """Trains and evaluates the variants of an architecture.

    Args:
        settings: Where and how.
        entry: The prepared encoders and data.
        order: What is trained.
        rows: The variants.
    """

    def __init__(
        self, settings: ComparisonSettings, entry: Entry, order: AblationOrder, rows: Sequence[AblationRow]
    ) -> None:
        self._settings, self._entry, self._order, self._rows = settings, entry, order, rows
        # An architecture may be in several rows: the default is in those of every gene.
        self._names = {digest_of(entry.architecture): "default"}
        for row in rows:
            self._names.setdefault(digest_of(row.architecture), f"{row.gene} {row.value}")
        self._architectures = {digest_of(row.architecture): row.architecture for row in rows}
        self._trainings = FullTrainings(
            entry.folder,
            entry.config,
            entry.prepared,
            options=settings.options,
            reporter=settings.reporter,
            kind="ablation",
            title="",
            name_of=self._name,
        )

    def run(self) -> list[AblatedRow]:
        """Train what is missing, evaluate it, and return the rows of the table.

        Raises:
            Interrupted: If the user has interrupted the ablation.
            NasError: If a model cannot be exported or the test split cannot be used.
        """
        with contextlib.closing(self._trainings):
            self._train()
        return [self._row(row) for row in self._rows]

    def _train(self) -> None:
        trainings, order = self._trainings, self._order
        # Seed by seed, so that a table of few trainings compares all values.
        pairs = [(digest, seed) for seed in range(order.seeds) for digest in self._architectures]
        missing = [pair for pair in pairs if trainings.is_missing(self._architectures[pair[0]], AblationKey(*pair))]
        parts = {digest: trainings.fitting_parts(self._architectures[digest]) for digest, _ in missing}
        jobs = [self._job(AblationKey(*pair), count) for pair in missing if (count := parts[pair[0]]) is not None]
        done, started = len(pairs) - len(missing), time.monotonic()
        total = done + len(jobs)
        if order.trainings is not None:
            jobs = jobs[: max(order.trainings - done, 0)]

        def on_end() -> None:
            nonlocal done
            done += 1
            self._settings.reporter.progress("ablation", done, total)

        def is_over() -> bool:
            return order.time_seconds is not None and time.monotonic() - started >= order.time_seconds

        self._settings.reporter.progress("ablation", done, total)
        trainings.run(jobs, is_over=is_over, on_end=on_end)

    def _job(self, key: AblationKey, micro_batches: int) -> Job:
        config, prepared, architecture = self._entry.config, self._entry.prepared, self._architectures[key.digest]
        return Job(
            key=key,
            architecture=architecture,
            stage="full",
            step_count=full_step_count(config.recipe, len(prepared.store.splits["train"])),
            # The same for all variants: they see the samples in one order, so that differences are paired.
            seed=seed_from(config.seed, "ablation", key.seed),
            predicted_peak_bytes=prepared.memory.predict(architecture, micro_batches=micro_batches).peak_bytes,
            micro_batches=micro_batches,
        )

    def _name(self, key: ModelKey) -> str:
        """Return the name of a training in messages."""
        assert isinstance(key, AblationKey)
        return f"{self._names.get(key.digest, key.digest)}, seed {key.seed}"

    def _row(self, row: AblationRow) -> AblatedRow:
        memory, architecture = self._entry.prepared.memory, row.architecture
        keys = [AblationKey(digest_of(architecture), seed) for seed in range(self._order.seeds)]
        results = [self._trainings.get(architecture, key) for key in keys]
        fitting = self._trainings.fitting_parts(architecture)
        parts = sorted({result.micro_batches for result in results if result is not None}) or [fitting or 1]
        prediction = memory.predict(architecture, micro_batches=parts[0])
        remarks = [f"in {' and '.join(map(str, parts))} micro-batches"] if parts[-1] > 1 else []
        failures = self._trainings.lasting_failures
        remarks += [failures[key] for key, result in zip(keys, results, strict=True) if not result and key in failures]
        if fitting is None and None in results:
            budget = self._entry.config.budget.memory_bytes
            needed = memory.predict(architecture).peak_bytes
            remarks.append(f"needs {format_bytes(needed)}, the memory budget is {format_bytes(budget)}")
        return AblatedRow(
            gene=row.gene,
            value=row.value,
            is_default=row.is_default,
            architecture=str(architecture),
            trainable_parameters=memory.parameter_count(architecture),
            training_bytes=prediction.training_bytes + frozen_bytes(self._entry, architecture),
            validation=tuple(None if result is None else result.metrics for result in results),
            test=tuple(map(self._test_metrics, results)) if self._order.evaluates_test else None,
            remark="; ".join(remarks),
        )

    def _test_metrics(self, result: Result | None) -> Mapping[str, float] | None:
        if result is None:
            return None
        model = self._entry.folder / "model"
        metrics = metrics_on_test(
            self._settings,
            self._entry,
            result,
            model=model,
            name=f"{self._name(result.key)}: evaluating the exported and reloaded model on test",
        )
        shutil.rmtree(model, ignore_errors=True)  # the weights of all variants are kept, their encoders are the same
        return metrics
