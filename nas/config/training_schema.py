"""The sections `recipe` and `supernet` of the search file."""

import sys
from typing import Self

from pydantic import Field, ValidationInfo, field_validator

from nas.common.units import MAX_COUNT
from nas.config.choices import ClassWeights, Optimizer, Sampling, Schedule
from nas.config.section import Rejected, Section
from nas.config.values import MAX_BATCH, MAX_RATE, Integer, Number
from nas.search.recipe_tuning import RecipeSetting


class LearningRatesConfig(Section):
    """The peak learning rate of each group of trained tensors."""

    prompts: Number = Field(gt=0, le=MAX_RATE, description="The learning rate of prompts.")
    mappings: Number = Field(gt=0, le=MAX_RATE, description="The learning rate of mappings.")
    classifiers: Number = Field(gt=0, le=MAX_RATE, description="The learning rate of classifiers.")
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

    optimizer: Optimizer = Field(description="The optimizer.")
    learning_rates: LearningRatesConfig = Field(description="The peak learning rates.")
    depth_scaling: Number = Field(
        default=0.0,
        ge=0,
        le=4,
        description="Divides the learning rate of prompts and mappings by n ** depth_scaling for n fusing layers: the "
        "layers above amplify the change of an early one.",
    )
    weight_decay: Number = Field(ge=0, le=MAX_RATE, description="The weight decay.")
    momentum: Number = Field(
        default=0.9, ge=0, le=0.999, description="The momentum of SGD, or the first beta of AdamW."
    )
    schedule: Schedule = Field(description="The learning rate after the warm-up.")
    warmup_fraction: Number = Field(
        default=0.0, ge=0, le=0.9, description="The fraction of all steps in which the learning rate rises linearly."
    )
    clip_norm: Number | None = Field(
        default=None, gt=0, le=MAX_COUNT, description="The largest global norm of the gradient; null: no limit."
    )
    batch_size: Integer = Field(ge=1, le=MAX_BATCH, description="The number of samples per step.")
    epochs: Integer = Field(ge=1, le=100_000, description="The number of passes over the training split.")
    class_weights: ClassWeights = Field(default="none", description="The weight of each class in the loss.")
    label_smoothing: Number = Field(
        default=0.0, ge=0, le=0.9, description="The fraction of the target that is spread over all classes."
    )

    def with_setting(self, setting: RecipeSetting) -> Self:
        """Return the recipe with the rates and the weight decay of a setting; its number of steps is the job's."""
        rates = self.learning_rates.scaled(setting.rate)
        classifiers = _rate(self.learning_rates.classifiers * setting.classifier_rate)
        return self.replace(
            learning_rates=rates.replace(classifiers=classifiers),
            weight_decay=min(self.weight_decay * setting.weight_decay, MAX_RATE),
        )


class SupernetConfig(Section):
    """The training of the weight-sharing supernet.

    In every step, `architectures_per_step` sampled architectures are each trained on a batch of their own, and their
    gradients are summed; workers share this work.
    """

    steps: Integer = Field(ge=1, le=MAX_COUNT, description="The number of training steps.")
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
