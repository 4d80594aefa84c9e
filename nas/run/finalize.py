"""What a run came to: the winner and the family's default exported, reloaded, and evaluated on test once."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.config.schema import Config, DataConfig, objectives_of
from nas.data.dataset import open_dataset_images, read_dataset
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder, load_image_processor, load_tokenizer, resolve_checkpoint
from nas.models.fusion.registry import load_model_class
from nas.models.fusion.supernet import build_model
from nas.run.export import assemble, describe, export, logits_of_samples, open_exported
from nas.run.prepare import SearchContext
from nas.run.reliability import ReliabilityReport
from nas.run.results_csv import table
from nas.search.keys import ModelKey, key_to_json
from nas.search.objectives import Pick, pick
from nas.search.space import Architecture
from nas.search.trial import Result
from nas.training.checkpoint import load_weights
from nas.training.metrics import evaluate_logits, standard_error

REPORT = "report.json"
BEST = "best"
DEFAULT = "default"
EVIDENCE = "evidence.json"


@dataclass(frozen=True)
class ModelParts:
    """What an exported model holds beside its trained weights."""

    image_encoder: Encoder
    text_encoder: Encoder
    image_processor: Any
    tokenizer: Any
    class_names: tuple[str, ...]
    max_text_tokens: int

    @classmethod
    def of(cls, prepared: SearchContext) -> "ModelParts":
        """The parts of a search that is open."""
        return cls(
            image_encoder=prepared.image_encoder,
            text_encoder=prepared.text_encoder,
            image_processor=prepared.preprocessor.image_processor,
            tokenizer=prepared.preprocessor.tokenizer,
            class_names=prepared.store.class_names,
            max_text_tokens=prepared.preprocessor.max_text_tokens,
        )

    @classmethod
    def load(cls, config: Config, class_names: tuple[str, ...]) -> "ModelParts":
        """The parts of a search that is not open, from its encoders' checkpoints."""
        image = resolve_checkpoint(config.encoders.image, Path.cwd())
        text = resolve_checkpoint(config.encoders.text, Path.cwd())
        text_encoder = load_encoder(text, "text")
        return cls(
            image_encoder=load_encoder(image, "image"),
            text_encoder=text_encoder,
            image_processor=load_image_processor(image),
            tokenizer=load_tokenizer(text),
            class_names=class_names,
            max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
        )


def export_result(
    target: Path,
    *,
    parts: ModelParts,
    weights: Path,
    result: Result,
    objective: str,
    data: DataConfig,
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Export a full training; returns the facts that were written with it.

    Args:
        target: Folder to write.
        parts: What the model holds beside its trained weights.
        weights: File of these.
        result: Of the training.
        objective: Of the search.
        data: Whose form is kept.
        learning_rate: Of everything, where that was not the recipe's.

    Raises:
        StudyError: If its weights are missing or damaged.
        ExportError: If the folder cannot be written.
    """
    trained = build_model(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        architecture=result.architecture,
        num_classes=len(parts.class_names),
        seed=0,
    )
    load_weights(weights, trained)
    model = assemble(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        trained=trained,
        class_names=parts.class_names,
        max_text_tokens=parts.max_text_tokens,
        threshold=result.metrics.get("threshold"),
    )
    facts = {
        "trial": key_to_json(result.key),
        "objective": objective,
        "validation": result.metrics,
        "training_steps": result.step_count,
        "seed": result.seed,
        **({} if learning_rate is None else {"learning_rate": learning_rate}),
        "trainable_parameters": sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad),
        "predicted_peak_bytes": result.predicted_peak_bytes,
        "measured_peak_bytes": result.measured_peak_bytes,
        "kept_freed_memory": result.kept_freed_memory,
        "data": data.form(),
    }
    export(target, model=model, image_processor=parts.image_processor, tokenizer=parts.tokenizer, facts=facts)
    return facts


def evaluate_exported(directory: Path, data: DataConfig, split: str) -> tuple[dict[str, float], int]:
    """Metrics of an exported model on a split, from raw images and texts in float32, and the number of samples.

    Raises:
        ExportError: If there is no model.
        DataError: If the data cannot be used, or has labels that the model does not know.
    """
    exported = open_exported(directory)
    several = exported.has_several_labels
    data = replace(data, labels="several" if several else "one")
    samples = read_dataset(data, (split,), class_names=exported.class_names).splits[split]
    images = open_dataset_images(data)
    if data.skip_unreadable_images:
        samples = samples.without(set(images.unreadable(list(dict.fromkeys(samples.images)))))
    logits = logits_of_samples(exported, samples, images)
    threshold = exported.threshold if several else None
    return evaluate_logits(logits, torch.from_numpy(samples.labels), threshold), len(samples)


def digest_of_test(data: DataConfig, class_names: tuple[str, ...]) -> str:
    """Of the test split: images, texts and labels; metrics of another are those of other samples.

    Raises:
        DataError: If it cannot be used.
    """
    images, samples = open_dataset_images(data), read_dataset(data, ("test",), class_names=class_names).splits["test"]
    digest = hashlib.sha256(samples.labels.tobytes())
    for image, text in zip(samples.images, samples.texts, strict=True):
        digest.update(f"{image}\0{images.fingerprint(image)}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def conclude(
    config: Config,
    directory: Path,
    *,
    best: Result,
    default: Result | None,
    evidence: ReliabilityReport,
    parts: ModelParts,
    weights_path: Callable[[ModelKey], Path],
    reporter: Reporter,
) -> None:
    """Export winner and default, evaluate both on test through the reloaded models, and show them side by side.

    A model whose test metrics are in the report already is not evaluated again, unless the test split has changed. What
    is known about how far to trust the answer is shown below, and written beside the report.
    """
    path = directory / REPORT
    report, test_data = read_report(directory), digest_of_test(config.data, parts.class_names)
    for role, result in ((BEST, best), (DEFAULT, default)):
        target = directory / role
        known = report.get(role, {})
        is_done = result is not None and (known.get("result"), known.get("test_data")) == (result.as_dict(), test_data)
        if result is None or (is_done and (target / "architecture.yaml").is_file()):
            continue
        facts = export_result(
            target,
            parts=parts,
            weights=weights_path(result.key),
            result=result,
            objective=config.search.objective,
            data=config.data,
        )
        if is_done:
            facts |= {key: known[key] for key in ("test", "test_samples")}
        else:
            reporter.note(f"{role}: evaluating the exported and reloaded model on test")
            metrics, count = evaluate_exported(target, config.data, "test")
            facts |= {"test": metrics, "test_samples": count}
        describe(target, facts)
        report[role] = {
            "architecture": result.architecture.as_dict(),
            **facts,
            "result": result.as_dict(),
            "test_data": test_data,
        }
        write_atomically(path, json.dumps(report, indent=1).encode())
    metric = config.search.objective
    reporter.note("")
    reporter.note(
        table(
            ("", "architecture", f"validation {metric}", f"test {metric}", "parameters", "peak memory"),
            [
                (name, *_row(report[role], metric))
                for name, role in (("best", BEST), (f"{config.space.architecture_class.title} default", DEFAULT))
                if role in report
            ],
        )
    )
    reporter.note("")
    reporter.note("how far to trust this:")
    for line in evidence.lines():
        reporter.note(f"- {line}")
    write_atomically(directory / EVIDENCE, json.dumps(evidence.as_dict(), indent=1).encode())
    reporter.note("")
    reporter.note(f"exported model: {directory / BEST}")
    reporter.note(f'use it: python run_search.py predict {directory / BEST} --image FILE --text "..."')


def read_report(directory: Path) -> dict[str, Any]:
    """What `conclude` has written in a run directory so far.

    Raises:
        StudyError: If the file is damaged.
    """
    path = directory / REPORT
    try:
        report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise StudyError(f"{path}: is damaged ({error}); delete it to have the winner evaluated again") from error
    return report


def _row(entry: dict[str, Any], metric: str) -> Sequence[str]:
    share, count = entry["test"][metric], entry["test_samples"]
    # The binomial error holds for a share of samples, not for averages over classes.
    error = f" ± {standard_error(share, count):.4f}" if metric == "accuracy" else ""
    return (
        str(Architecture.from_dict(entry["architecture"])),
        f"{entry['validation'][metric]:.4f}",
        f"{share:.4f}{error}",
        f"{entry['trainable_parameters']:,}",
        _peaks(entry),
    )


def _peaks(entry: dict[str, Any]) -> str:
    """What is needed, and what was held: more than that where a worker had room to keep what it freed."""
    needed, held = format_bytes(entry["predicted_peak_bytes"]), format_bytes(entry["measured_peak_bytes"])
    return f"{needed} needed, {held} held" + (" with room to spare" if entry["kept_freed_memory"] else "")


class _KnownCosts:
    """Costs of candidates that were trained in full.

    Args:
        parts: Their encoders.
        results: Of their trainings.
    """

    def __init__(self, parts: ModelParts, results: Sequence[Result]) -> None:
        self._parts = parts
        self._peak_bytes = {result.architecture: result.predicted_peak_bytes for result in results}

    def parameter_count(self, architecture: Architecture) -> int:
        with torch.device("meta"):
            return load_model_class(architecture.family).parameter_count(
                (self._parts.image_encoder, self._parts.text_encoder), architecture, len(self._parts.class_names)
            )

    def architecture_bytes(self, architecture: Architecture) -> int:
        return self._peak_bytes[architecture]


def picked_result(
    directory: Path, config: Config, parts: ModelParts, results: Sequence[Result], how: Pick, within: float
) -> Result:
    """One of the fully trained candidates; see `nas.search.objectives.pick`.

    Raises:
        StudyError: If nothing was trained in full, or nothing that meets the bounds of the search.
    """
    if not results:
        raise StudyError(f"{directory}: no finalist was trained in full, so there is nothing to export")
    costs = _KnownCosts(parts, results)
    found = pick(results, objectives_of(config.search, costs), how, size=costs.parameter_count, within=within)
    if found is None:
        bounds = ", ".join(map(str, config.search.constraints))
        raise StudyError(
            f"{directory}: no candidate that was trained in full meets {bounds}; --trial exports one anyway"
        )
    return found


def find_full_result(directory: Path, results: Sequence[Result], trial: int) -> Result:
    """The fully trained candidate of that number.

    Raises:
        StudyError: If there is none; names those that there are.
    """
    for result in results:
        if result.trial == trial:
            return result
    known = ", ".join(str(result.trial) for result in results) or "none"
    raise StudyError(
        f"{directory}: trial {trial} was not trained in full, so there is nothing to export; trained in full: {known}"
    )
