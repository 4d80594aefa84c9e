"""Write a candidate as a folder that loads anywhere, with the weights of the last stage that it has completed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.config.data_schema import DataConfig
from nas.execution.worker_setup import SUPERNET_FILE, trained_weights_path
from nas.models.classifier import CLASSIFICATION, MULTI_LABEL, RETRIEVAL, FusionConfig, FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.fusion.base import FusionModel
from nas.models.fusion.supernet import build_model, extract
from nas.models.retrieval import model_class_of
from nas.run.model_card import describe
from nas.run.model_folder import write_model_folder
from nas.run.model_parts import ModelParts
from nas.run.processor import processor_of
from nas.run.progress_lines import STAGE_VERBS
from nas.run.shared_weights import share_encoders
from nas.search.keys import key_to_json
from nas.search.space import SearchSpace
from nas.search.trial import Result
from nas.training.checkpoint import load_weights, training_facts

_UNSAVED_KEYS = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""The keys of an encoder's configuration that describe its checkpoint, among them its place on this machine."""


@dataclass(frozen=True)
class TrainedWeights:
    """The weights of a candidate and how it came by them.

    Args:
        path: The file of the trained weights.
        result: The result of the training or, for a candidate that was only screened, of its screening.
        learning_rate: The learning rate of all trained tensors, where it was not the recipe's.
        supernet_space: The search space, where the file is that of the supernet and the model a slice of it.
    """

    path: Path
    result: Result
    learning_rate: float | None = None
    supernet_space: SearchSpace | None = None

    @classmethod
    def of(cls, run_directory: Path, result: Result, space: SearchSpace) -> "TrainedWeights":
        """Return the weights of a result of a search.

        Args:
            run_directory: The directory of the run.
            result: The result of any stage.
            space: The search space.
        """
        if result.stage == "one_shot":
            return cls(run_directory / SUPERNET_FILE, result, supernet_space=space)
        return cls(trained_weights_path(run_directory, result.key, result.stage), result)

    def load(self, parts: ModelParts) -> FusionModel:
        """Return the model with its weights.

        Args:
            parts: The parts of the model besides its trained weights.

        Raises:
            StudyError: If the weights are missing or damaged.
        """
        architecture, space = self.result.architecture, self.supernet_space
        model = build_model(
            image_encoder=parts.image_encoder,
            text_encoder=parts.text_encoder,
            architecture=architecture if space is None else space.supernet,
            num_classes=len(parts.class_names),
            seed=0,
            class_texts=parts.class_texts,
        )
        # The supernet has the weights of no single training; the study knows its checksum.
        expected = training_facts(self.result) if space is None else {}
        load_weights(self.path, model, **expected)
        return model if space is None else extract(model, architecture)


def export_result(
    target: Path,
    trained: TrainedWeights,
    *,
    parts: ModelParts,
    objective: str,
    data: DataConfig,
    shares_with: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Export a candidate.

    Args:
        target: The folder to write.
        trained: The weights of the candidate and its result.
        parts: The parts of the model besides its trained weights.
        objective: The metric of the search.
        data: The data set, whose format is recorded.
        shares_with: Other model folders with which it shares the file of the encoders; None for a folder that has its
            weights in one file.

    Returns:
        The facts that were written with the model.

    Raises:
        StudyError: If the weights are missing or damaged.
        ExportError: If the folder cannot be written.
    """
    result = trained.result
    model = trained.load(parts)
    classifier = assemble(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        trained=model,
        class_names=parts.class_names,
        max_text_tokens=parts.max_text_tokens,
        threshold=result.metrics.get("threshold"),
    )
    facts = {
        "trial": key_to_json(result.key),
        "stage": result.stage,
        "training": STAGE_VERBS[result.stage],
        "objective": objective,
        "validation": result.metrics,
        "training_steps": result.step_count,
        **({"supernet_steps": result.supernet_steps} if result.stage != "full" else {}),
        "seed": result.seed,
        "precision": result.precision,
        **({} if trained.learning_rate is None else {"learning_rate": trained.learning_rate}),
        "trainable_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "predicted_peak_bytes": result.predicted_peak_bytes,
        "measured_peak_bytes": result.measured_peak_bytes,
        "kept_freed_memory": result.kept_freed_memory,
        "data": data.form(),
    }
    tools = {"image_processor": parts.image_processor, "tokenizer": parts.tokenizer}
    export(target, model=classifier, **tools, facts=facts, shares_with=shares_with)
    return facts


def assemble(
    *,
    image_encoder: Encoder,
    text_encoder: Encoder,
    trained: FusionModel,
    class_names: Sequence[str],
    max_text_tokens: int,
    threshold: float | None = None,
) -> FusionForClassification:
    """Build a complete classifier, or model for retrieval, from two frozen encoders and what is trained between them.

    Args:
        image_encoder: The frozen image encoder.
        text_encoder: The frozen text encoder.
        trained: The trained fusion model.
        class_names: The class names in the order of the logits; none for a model for retrieval.
        max_text_tokens: The number of tokens that texts are cut to.
        threshold: The probability above which a label is predicted, where a sample may have several labels.
    """
    return assemble_ensemble(
        [(trained, 1.0)],
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        class_names=class_names,
        max_text_tokens=max_text_tokens,
        threshold=threshold,
    )


def assemble_ensemble(
    members: Sequence[tuple[FusionModel, float]],
    *,
    image_encoder: Encoder,
    text_encoder: Encoder,
    class_names: Sequence[str],
    max_text_tokens: int,
    threshold: float | None = None,
) -> FusionForClassification:
    """Build a complete classifier whose probabilities are the weighted mean of its members'; see `assemble`.

    Args:
        members: The trained fusion models and their weights, which add up to 1; a single one gives a plain classifier.
        image_encoder: The frozen image encoder.
        text_encoder: The frozen text encoder.
        class_names: The class names in the order of the logits.
        max_text_tokens: The number of tokens that texts are cut to.
        threshold: The probability above which a label is predicted, where a sample may have several labels.
    """
    problem_type = "single_label_classification" if threshold is None else MULTI_LABEL
    described: list[dict[str, Any]] = [
        {"architecture": model.architecture.as_dict(), "weight": weight} for model, weight in members
    ]
    texts = next((model.class_texts for model, _ in members if model.class_texts is not None), None)
    config = FusionConfig(
        image_config=_encoder_dict(image_encoder),
        text_config=_encoder_dict(text_encoder),
        architecture=described[0]["architecture"],
        members=described if len(described) > 1 else None,
        class_texts=None if texts is None else texts.as_dict(),
        max_text_tokens=max_text_tokens,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        problem_type=problem_type if class_names else None,
        threshold=0.5 if threshold is None else threshold,
        task=CLASSIFICATION if class_names else RETRIEVAL,
    )
    model = model_class_of(config)(config)
    for name, encoder in (("image_encoder", image_encoder), ("text_encoder", text_encoder)):
        if hasattr(model, name):
            getattr(model, name).load_state_dict(encoder.state_dict())
    for member, (trained, _) in zip(model.members, members, strict=True):
        member.load_state_dict(trained.state_dict())
    model.train(False)
    return model


def _encoder_dict(encoder: Encoder) -> dict[str, Any]:
    values = encoder.config.to_dict()
    return {key: value for key, value in values.items() if key not in _UNSAVED_KEYS}


def export(
    directory: Path,
    *,
    model: FusionForClassification,
    image_processor: Any,
    tokenizer: Any,
    facts: Mapping[str, Any],
    shares_with: Sequence[Path] | None = None,
) -> None:
    """Write a model folder; an existing one is replaced only when the new one is complete.

    Args:
        directory: The folder to write.
        model: The classifier.
        image_processor: The image processor of its image encoder.
        tokenizer: The tokenizer of its text encoder.
        facts: Plain values by name, for the model card and `architecture.yaml`; `data`, the form of the data, is for
            the latter only.
        shares_with: Other model folders; see `export_result`.

    Raises:
        ExportError: If the folder holds something else, or cannot be written.
    """

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor_of(image_processor, tokenizer, int(model.config.max_text_tokens)).save_pretrained(folder)
        if shares_with is not None:
            share_encoders(folder, shares_with)
        describe(folder, facts)

    write_model_folder(directory, write)
