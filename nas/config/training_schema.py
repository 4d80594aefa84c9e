"""The sections `recipe` and `supernet` of the search file."""

import sys
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator

from nas.common.precision import Precision
from nas.common.units import MAX_COUNT
from nas.config.choices import ClassifierStart, ClassWeights, Optimizer, Sampling, Schedule
from nas.config.section import Automatic, FromFile, Rejected, Section
from nas.config.values import MAX_BATCH, MAX_RATE, Integer, Number
from nas.search.recipe_tuning import RecipeSetting

_RATES = "6e-4 with `classifier_start: linear`, else 6e-3; 1e-3 in families that train encoders; 1e-2 with SGD"
_CLASSIFIER_RATE = (
    "1.2e-3 with `classifier_start: linear`, else 1.2e-2; 1e-3 in families that train encoders; 1e-2 with SGD"
)


class LearningRatesConfig(Section):
    """The peak learning rate of each group of trained tensors."""

    prompts: Annotated[Number, Automatic(_RATES)] = Field(
        gt=0, le=MAX_RATE, description="The learning rate of prompts."
    )
    mappings: Annotated[Number, Automatic(_RATES)] = Field(
        gt=0, le=MAX_RATE, description="The learning rate of mappings."
    )
    classifiers: Annotated[Number, Automatic(_CLASSIFIER_RATE)] = Field(
        gt=0, le=MAX_RATE, description="The learning rate of classifiers."
    )
    encoders: Number = Field(
        default=1e-4,
        gt=0,
        le=MAX_RATE,
        description="The learning rate of encoder weights, in families that train them.",
    )

    @classmethod
    def of_all(cls, rate: float) -> Self:
        """Return the same rate for every group."""
        return cls(prompts=rate, mappings=rate, classifiers=rate, encoders=rate)

    def scaled(self, factor: float) -> Self:
        """Return the rates multiplied by a factor."""
        return self.replace(**{name: _rate(rate * factor) for name, rate in self})


def _rate(value: float) -> float:
    """Return the nearest rate that is allowed: a factor may leave the range of what a file may state."""
    return min(max(value, sys.float_info.min), MAX_RATE)


class RecipeConfig(Section):
    """The recipe of a full training."""

    optimizer: Optimizer = Field(default="adamw", description="The optimizer.")
    learning_rates: Annotated[LearningRatesConfig, Automatic()] = Field(description="The peak learning rates.")
    depth_scaling: Annotated[
        Number, Automatic("0.5; 0 in families that train encoders and in files that set `optimizer`")
    ] = Field(
        ge=0,
        le=4,
        description="Divides the learning rate of prompts and mappings by n ** depth_scaling for n fusing layers: the "
        "layers above amplify the change of an early one.",
    )
    weight_decay: Annotated[
        Number,
        Automatic(
            "2.0 for 280 steps, in proportion to the root of 1 / steps; 0.05 in families that train encoders; 1e-4 "
            "with SGD"
        ),
    ] = Field(ge=0, le=MAX_RATE, description="The weight decay.")
    momentum: Number = Field(
        default=0.9, ge=0, le=0.999, description="The momentum of SGD, or the first beta of AdamW."
    )
    schedule: Schedule = Field(default="cosine", description="The learning rate after the warm-up.")
    warmup_fraction: Annotated[Number, Automatic("0.1; 0 in files that set `optimizer`")] = Field(
        ge=0, le=0.9, description="The fraction of all steps in which the learning rate rises linearly."
    )
    clip_norm: Annotated[Number | None, Automatic("1.0; null in files that set `optimizer`")] = Field(
        gt=0, le=MAX_COUNT, description="The largest global norm of the gradient; null: no limit."
    )
    batch_size: Annotated[
        Integer,
        Automatic(
            "the power of two below a 16th of the training samples, at least 8 and at most 32; 64 from 20,000 samples"
        ),
    ] = Field(ge=1, le=MAX_BATCH, description="The number of samples per step.")
    epochs: Annotated[
        Integer | None,
        Automatic(
            "280 steps for 1,804 training samples, in proportion to the root of the samples, at least 200 and at most "
            "5,000; 40 % of that in families that train encoders; at least one epoch"
        ),
    ] = Field(ge=1, le=100_000, description="The number of passes over the training split.")
    steps: Integer | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="The number of steps, in place of `epochs`; null: as in `epochs`."
    )
    classifier_start: Annotated[
        ClassifierStart, Automatic("linear; random in families that train encoders and in files that set `optimizer`")
    ] = Field(
        default="random",
        description="The initial classifiers of a full training and of the supernet. `random`: as in PyTorch. "
        "`linear`: the logistic regression on what they read with the initial prompts and mappings.",
    )
    class_weights: ClassWeights = Field(default="none", description="The weight of each class in the loss.")
    label_smoothing: Annotated[Number, Automatic("0.1; 0 in files that set `optimizer`")] = Field(
        ge=0, le=0.9, description="The fraction of the target that is spread over all classes."
    )
    precision: Annotated[Precision, Automatic("bfloat16 on a GPU that is fast at it, otherwise float32")] = Field(
        default="float32",
        description="The precision of products in training and evaluation. With bfloat16, products are computed by "
        "autocast; trained weights, logits, losses and metrics stay float32.",
    )

    @field_validator("steps")
    @classmethod
    def _has_one_length(cls, value: int | None, info: ValidationInfo) -> int | None:
        epochs = info.data.get("epochs", 0)  # which is reported if it is invalid
        if value is None and epochs is None:
            raise Rejected("steps (for instance 300) or epochs (for instance 5)", problem="missing")
        if value is not None and epochs:
            raise Rejected(f"null together with epochs: {epochs}, or one of the two")
        return value

    def step_count(self, sample_count: int) -> int:
        """Return the number of steps of a full training on a number of samples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * steps_per_epoch(sample_count, self.batch_size)

    def with_setting(self, setting: RecipeSetting) -> Self:
        """Return the recipe with the rates and the weight decay of a setting; its number of steps is the job's."""
        rates = self.learning_rates.scaled(setting.rate)
        classifiers = _rate(self.learning_rates.classifiers * setting.classifier_rate)
        return self.replace(
            learning_rates=rates.replace(classifiers=classifiers),
            weight_decay=min(self.weight_decay * setting.weight_decay, MAX_RATE),
        )


def steps_per_epoch(sample_count: int, batch_size: int) -> int:
    """Return the number of whole batches of a number of samples, at least one."""
    return max(sample_count // batch_size, 1)


class SupernetConfig(Section):
    """The training of the weight-sharing supernet.

    In every step, `architectures_per_step` sampled architectures are each trained on a batch of their own, and their
    gradients are summed; workers share this work.
    """

    steps: Annotated[Integer, Automatic("as long as 5 full trainings, or `epochs`")] = Field(
        ge=1, le=MAX_COUNT, description="The number of training steps."
    )
    epochs: Number | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="The number of times that the shared weights are trained with each sample, in place of `steps`; "
        "null: as in `steps`.",
    )
    sampling: Sampling = Field(
        default="sandwich",
        description="The architectures of a step. `uniform`: every value with equal probability. `sandwich`: the "
        "largest, the smallest, and random ones in between. `balanced`: rarely trained weights are sampled more often.",
    )
    architectures_per_step: Integer = Field(
        default=4, ge=1, le=10_000, description="The number of architectures per step."
    )
    checkpoint_steps: Integer = Field(
        default=100, ge=1, le=MAX_COUNT, description="The number of steps between two checkpoints."
    )
    distillation: Number = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The fraction of the loss of all other architectures that compares them with the largest one. Only "
        "with `sampling: sandwich`.",
    )

    @field_validator("epochs")
    @classmethod
    def _has_one_length(cls, value: float | None, info: ValidationInfo) -> float | None:
        is_given = isinstance(info.context, FromFile) and not info.context.defers("supernet.steps")
        if value is not None and is_given and "steps" in info.data:
            raise Rejected(f"null together with steps: {info.data['steps']}, or one of the two")
        return value

    @field_validator("architectures_per_step")
    @classmethod
    def _sandwich_has_three(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("sampling") == "sandwich" and value < 3:
            raise Rejected("at least 3 with sampling: sandwich")
        return value

    @field_validator("distillation")
    @classmethod
    def _only_sandwich_distills(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("sampling", "sandwich") != "sandwich":
            raise Rejected("0 without sampling: sandwich")
        return value
