"""Evaluate the models of a comparison on test, through the exported and reloaded model, and make their table rows."""

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

from nas.common.sealed_json import write_sealed_json
from nas.execution.worker_setup import full_weights_path
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import sizes_of
from nas.run.comparison.entries import ComparisonSettings, Entry
from nas.run.comparison.files import TESTS, read_stored
from nas.run.comparison.protocol import novel_data, novel_parts
from nas.run.comparison.report import Row
from nas.run.comparison.training import TrainedEntry, comparison_key
from nas.run.evaluate import digest_of_test, evaluate_exported
from nas.run.export import TrainedWeights, export_result
from nas.run.model_parts import ModelParts
from nas.search.space import RAW, WHOLE, Architecture
from nas.search.trial import Result, to_number


def table_row(settings: ComparisonSettings, trained: TrainedEntry) -> Row:
    """Return the table row of an entry, after evaluating the models that have no test metrics yet.

    Args:
        settings: The comparison.
        trained: The trainings of the entry.

    Raises:
        NasError: If a model cannot be exported or the test split cannot be used.
    """
    entry = trained.entry
    memory, architecture = entry.prepared.memory, entry.architecture
    results = [result for result in trained.results if result is not None]
    prediction = memory.predict(architecture, micro_batches=trained.micro_batches[0])
    return Row(
        name=entry.name,
        title=entry.title,
        is_searched_family=architecture.family == settings.config.space.architecture_class.family,
        architecture=str(architecture) if architecture.stated_genes else "",
        learning_rate=None if trained.rate is None else entry.config.compare.learning_rates[trained.rate],
        trainable_parameters=memory.parameter_count(architecture),
        training_bytes=prediction.training_bytes + frozen_bytes(entry, architecture),
        measured_peak_bytes=max((result.measured_peak_bytes for result in results), default=None),
        validation=tuple(None if result is None else result.metrics for result in trained.results),
        test=tuple(None if result is None else _test_metrics(settings, entry, result) for result in trained.results),
        seconds=statistics.fmean(result.seconds for result in results) if results else None,
        remark="; ".join(trained.remarks),
        novel=tuple(
            None if result is None else _test_metrics(settings, entry, result, on_novel=True)
            for result in trained.results
        )
        if settings.protocol.is_base_to_novel
        else None,
    )


def frozen_bytes(entry: Entry, architecture: Architecture) -> int:
    """Return the bytes of the frozen weights that a training uses.

    Args:
        entry: The entry, with its encoders.
        architecture: The architecture that is trained.
    """
    encoders = (entry.prepared.image_encoder, entry.prepared.text_encoder)
    layers = architecture.entry_layers(sizes_of(*encoders))
    if architecture.reads_class_texts:
        layers = layers._replace(text=WHOLE)
    return sum(
        tensor.nbytes
        for encoder, layer in zip(encoders, layers, strict=True)
        if layer is not None and layer != RAW
        for tensor in tail_weights(encoder, layer, entry.config.recipe.precision).values()
    )


def _test_metrics(
    settings: ComparisonSettings, entry: Entry, result: Result, *, on_novel: bool = False
) -> dict[str, float]:
    """Return the test metrics of a training of an entry, on the classes that it was trained on or on the novel ones."""
    key, novel = comparison_key(result.key), "novel_" if on_novel else ""
    return metrics_on_test(
        settings,
        entry,
        result,
        model=entry.folder / f"model_{novel}seed{key.seed}",
        name=f"{entry.title}: evaluating the exported and reloaded model of seed {key.seed} on "
        f"{'novel classes of ' * on_novel}test",
        learning_rate=entry.config.compare.learning_rates[key.rate],
        on_novel=on_novel,
    )


def metrics_on_test(
    settings: ComparisonSettings,
    entry: Entry,
    result: Result,
    *,
    model: Path,
    name: str,
    learning_rate: float | None = None,
    on_novel: bool = False,
) -> dict[str, float]:
    """Return the test metrics of a training; each model is exported, reloaded and evaluated once.

    Args:
        settings: The comparison or ablation.
        entry: The entry, in whose folder the weights and the metrics are.
        result: The result of the training.
        model: The folder of the exported model.
        name: The message before the evaluation.
        learning_rate: The learning rate of all trained tensors, where it was not the recipe's.
        on_novel: Whether the model classifies novel classes, whose texts replace those it was trained with.

    Raises:
        NasError: If the model cannot be exported or the test split cannot be used.
    """
    path, data, parts = entry.folder / TESTS, entry.config.data, ModelParts.of(entry.prepared)
    if on_novel:
        data, parts = novel_data(data), novel_parts(entry.config, settings.source, entry.prepared)
    # The result identifies the training: no two trainings take the same time.
    training = hashlib.sha256(json.dumps(result.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
    test = digest_of_test(data, parts.class_names, settings.options.cache)
    identity = f"{result.key.name} {training} {test}"
    known = read_stored(path, _to_metrics)
    if identity not in known:
        trained = TrainedWeights(full_weights_path(entry.folder, result.key), result, learning_rate)
        export_result(model, trained, parts=parts, objective=entry.config.search.objective, data=data)
        settings.reporter.note(name)
        known[identity] = evaluate_exported(model, data, "test").metrics
        write_sealed_json(path, known)
    return known[identity]


def _to_metrics(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the test metrics of each model."""
    return {
        name: {str(metric): to_number(metric, value) for metric, value in metrics.items()}
        for name, metrics in values.items()
    }
