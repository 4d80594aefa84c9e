"""Write the ensemble of a run as one model folder with one copy of the frozen encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.config.schema import Config
from nas.models.fusion.base import FusionModel
from nas.run.ensemble import Ensemble
from nas.run.export import TrainedWeights, assemble_ensemble, export
from nas.run.model_parts import ModelParts
from nas.run.progress_lines import STAGE_VERBS
from nas.search.keys import key_to_json


def export_ensemble(
    target: Path,
    ensemble: Ensemble,
    run_directory: Path,
    *,
    parts: ModelParts,
    config: Config,
    shares_with: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Export an ensemble.

    Args:
        target: The folder to write.
        ensemble: The ensemble.
        run_directory: The run directory, which has the weights of the members.
        parts: The parts of the model besides its trained weights.
        config: The configuration of the run.
        shares_with: Other model folders; see `nas.run.export.export_result`.

    Returns:
        The facts that were written with the model. Parameters are the sum over the members, without the frozen
        encoders; peaks of training are the largest of a member, because each was trained by itself.

    Raises:
        StudyError: If the weights of a member are missing or damaged.
        ExportError: If the folder cannot be written.
    """
    members = ensemble.members
    models = [TrainedWeights.of(run_directory, member.result, config.space).load(parts) for member in members]
    classifier = assemble_ensemble(
        [(model, member.weight) for model, member in zip(models, members, strict=True)],
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        class_names=parts.class_names,
        max_text_tokens=parts.max_text_tokens,
        threshold=ensemble.metrics.get("threshold"),
    )
    facts = _facts(ensemble, models, config)
    tools = {"image_processor": parts.image_processor, "tokenizer": parts.tokenizer}
    export(target, model=classifier, **tools, facts=facts, shares_with=shares_with)
    return facts


def _facts(ensemble: Ensemble, models: Sequence[FusionModel], config: Config) -> dict[str, Any]:
    """Return the facts of an ensemble of models."""
    members, objective = ensemble.members, config.search.objective
    results = [member.result for member in members]
    return {
        "answer": "ensemble",
        "stage": "full",
        "training": STAGE_VERBS["full"],
        "objective": objective,
        "validation": dict(ensemble.metrics),
        "cross_fitted_gain": {objective: ensemble.gain.mean, "standard_error": ensemble.gain.standard_error},
        "members": [
            {
                "training": key_to_json(member.result.key),
                "architecture": member.result.architecture.as_dict(),
                "weight": member.weight,
                "seed": member.result.seed,
                "training_steps": member.result.step_count,
                "precision": member.result.precision,
                "validation": member.result.metrics,
            }
            for member in members
        ],
        "trainable_parameters": sum(
            parameter.numel() for model in models for parameter in model.parameters() if parameter.requires_grad
        ),
        "predicted_peak_bytes": max(result.predicted_peak_bytes for result in results),
        "measured_peak_bytes": max(result.measured_peak_bytes for result in results),
        "kept_freed_memory": any(result.kept_freed_memory for result in results),
        "data": config.data.form(),
    }
