"""The section `pretraining` of the search file."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from nas.common.units import MAX_COUNT
from nas.config.section import Expected, Rejected, Section, rejections
from nas.config.values import MAX_RATE, Flag, Integer, Number
from nas.search.pretraining import OBJECTIVES, Objective
from nas.search.space import Architecture
from nas.search.space.family_registry import FAMILIES, load_architecture_class

_MAX_QUEUE = 1_000_000


def _objectives(value: Any) -> tuple[Objective, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) for name in value):
        raise Rejected()
    if len(set(value)) != len(value) or not set(value) <= set(OBJECTIVES):
        raise Rejected()
    return tuple(name for name in OBJECTIVES if name in value)


ObjectiveList = Annotated[
    tuple[Objective, ...] | None,
    BeforeValidator(_objectives),
    PlainSerializer(lambda names: None if names is None else list(names)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"enum": list(OBJECTIVES)}, "minItems": 1, "uniqueItems": True},
                {"type": "null"},
            ]
        }
    ),
    Expected(f"a list of some of {', '.join(OBJECTIVES)}"),
]


class PretrainingConfig(Section):
    """The pretraining of a model on the pairs of image and text of the training split, without their labels.

    It comes before every full training, in the same job, and starts from the same fresh weights. Only in families that
    can be pretrained. The supernet, and so screening and short trainings, has none. The objectives are those of ALBEF
    (Li et al., NeurIPS 2021). A step reads a batch of `recipe.batch_size` pairs, which is never divided.
    """

    steps: Integer = Field(default=0, ge=0, le=MAX_COUNT, description="The number of steps; 0: no pretraining.")
    text_steps: Integer = Field(
        default=0,
        ge=0,
        le=MAX_COUNT,
        description="The number of steps before these, on the texts alone: the experts and embeddings of texts learn "
        "to predict masked words, given the text, while the attention is frozen (`vlmo`). They need `masked_language` "
        "among the objectives.",
    )
    objectives: ObjectiveList = Field(
        default=None,
        description="The objectives, whose losses are added. `contrastive`: image and text of a pair are more similar "
        "than others. `matching`: whether image and text are a pair. `masked_language`: masked words, given the text "
        "and the image. null: all that the family has.",
    )
    queue_size: Integer = Field(
        default=1_024,
        ge=0,
        le=_MAX_QUEUE,
        description="The number of earlier pairs that the contrastive objective compares with, besides those of the "
        "batch.",
    )
    momentum: Number = Field(
        default=0.995,
        ge=0,
        le=1,
        description="The weight of the moving average of the weights in each step; the model with these weights embeds "
        "the pairs of the queue, and is the teacher of `distillation`.",
    )
    distillation: Number = Field(
        default=0.4,
        ge=0,
        le=1,
        description="The weight of the teacher's soft targets (momentum distillation) in the contrastive and the "
        "masked language objective; it rises linearly during the first epoch. 0: none.",
    )
    hard_negatives: Flag = Field(
        default=True,
        description="Whether the matching objective draws pairs that do not match by their contrastive similarity; "
        "otherwise, and without `contrastive`, all are equally likely.",
    )
    learning_rate: Number | None = Field(
        default=None,
        gt=0,
        le=MAX_RATE,
        description="The peak learning rate of all weights; null: those of the recipe, and that of mappings for the "
        "heads of the objectives.",
    )
    checkpoint_steps: Integer = Field(
        default=100, ge=1, le=MAX_COUNT, description="The number of steps between two checkpoints."
    )

    def objectives_of(self, architecture_class: type[Architecture]) -> tuple[Objective, ...]:
        """Return the objectives on which models of a family are pretrained; none without a pretraining."""
        if not self.steps:
            return ()
        return architecture_class.pretraining_objectives if self.objectives is None else self.objectives


def check_family(pretraining: PretrainingConfig, family: str | None) -> PretrainingConfig:
    """Return the section after checking that a family can be pretrained so.

    Args:
        pretraining: The section.
        family: The family; None if it is invalid, which is reported elsewhere.

    Raises:
        pydantic.ValidationError: If it cannot.
    """
    if family is None:
        return pretraining
    architecture_class = load_architecture_class(family)
    if pretraining.text_steps:
        _check_text_steps(pretraining, architecture_class)
    if not pretraining.steps:
        return pretraining
    known = architecture_class.pretraining_objectives
    if not known:
        raise Rejected(f"0 for the family {family}, {_alternatives()}", path=("steps",), got=pretraining.steps)
    problems = list(_unknown(pretraining.objectives or (), known, family))
    if problems:
        raise rejections(problems)
    return pretraining


def _check_text_steps(pretraining: PretrainingConfig, architecture_class: type[Architecture]) -> None:
    """Raise Rejected if there can be no steps on texts alone."""
    able = ", ".join(name for name in FAMILIES.names() if load_architecture_class(name).pretrains_on_texts)
    expected = None
    if not architecture_class.pretrains_on_texts:
        expected = f"0 for the family {architecture_class.family}, which cannot learn from texts alone; {able} can"
    elif "masked_language" not in pretraining.objectives_of(architecture_class):
        expected = "0 without steps (above 0) and masked_language among the objectives"
    if expected is not None:
        raise Rejected(expected, path=("text_steps",), got=pretraining.text_steps)


def _unknown(chosen: Sequence[str], known: Sequence[str], family: str) -> Iterator[Rejected]:
    for name in chosen:
        if name not in known:
            yield Rejected(f"some of {', '.join(known)} for the family {family}", path=("objectives",), got=name)


def _alternatives() -> str:
    names = [name for name in FAMILIES.names() if load_architecture_class(name).pretraining_objectives]
    return f"which cannot be pretrained; {', '.join(names)} can" if names else "since no family can be pretrained"
