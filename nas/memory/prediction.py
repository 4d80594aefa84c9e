"""Predict the peak memory of training a candidate, and of a supernet step, without running it."""

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeAlias

import torch
from transformers import PreTrainedConfig

from nas.common.devices import CPU, is_accelerator
from nas.config.data_schema import FeaturesConfig
from nas.config.pretraining_schema import PretrainingConfig
from nas.config.training_schema import RecipeConfig
from nas.memory.interpolation import PeakSurface
from nas.memory.overheads import overheads_on
from nas.memory.step_tracing import PretrainingBytes, StepTracer, TaskShapes, TrainingStep
from nas.search.pretraining import Objective
from nas.search.space import Architecture, SearchSpace
from nas.training.pretraining.settings import PretrainingSettings

_STATE_TENSORS = {"sgd": 1, "adamw": 2}
"""Optimizer state, in tensors of the size of the parameter."""

_TRACE_MARGIN = 0.01
"""Distance from the budget, as a fraction of the bytes of a step, below which the step is traced even if its peak can
be interpolated. Interpolated peaks were exact to the byte in all comparisons; this guards the decision elsewhere."""


@cache
def micro_batch_counts(batch_size: int) -> Sequence[int]:
    """Return the useful numbers of micro-batches above 1, ascending: each makes the largest micro-batch smaller."""
    counts = {-(-batch_size // count): count for count in range(batch_size, 1, -1)}
    return tuple(sorted(counts.values()))


@dataclass(frozen=True)
class PeakPrediction:
    """Memory of a training process at its peak, in bytes by purpose: on the CPU its private memory, or that on its GPU.

    Args:
        process_bytes: The process apart from all tensors.
        frozen_bytes: The frozen weights, of which every process has a copy on its GPU. On the CPU workers map them from
            a file, which the system holds once: 0.
        supernet_bytes: The weights of the supernet.
        trained_bytes: The weights of a candidate, in addition to those of the supernet.
        optimizer_bytes: The optimizer state.
        gradient_sum_bytes: The summed gradients of several architectures, in a supernet step.
        step_bytes: The batch, activations and gradients of forward and backward pass.
        allocator_bytes: Fragmentation between small tensors.
        momentum_bytes: The momentum model and the queue, in a pretraining.
    """

    process_bytes: int
    frozen_bytes: int
    supernet_bytes: int
    trained_bytes: int
    optimizer_bytes: int
    gradient_sum_bytes: int
    step_bytes: int
    allocator_bytes: int
    momentum_bytes: int = 0

    @property
    def training_bytes(self) -> int:
        """The memory of the training only: weights, optimizer state and a step."""
        weights = self.trained_bytes + self.optimizer_bytes + self.momentum_bytes
        return weights + self.gradient_sum_bytes + self.step_bytes

    @property
    def peak_bytes(self) -> int:
        """The peak of the process."""
        fixed_bytes = self.process_bytes + self.frozen_bytes + self.supernet_bytes
        return fixed_bytes + self.training_bytes + self.allocator_bytes


PretrainingKey: TypeAlias = tuple[Architecture, int, tuple[Objective, ...], PretrainingConfig]
"""An architecture, the batch size, the objectives and the section of the configuration."""

TraceKey: TypeAlias = tuple[TrainingStep, Architecture]
"""A step, and the architecture of the weights with gradients."""


@dataclass(frozen=True)
class TraceCache:
    """Results of traces, which predictors with the same encoders, label smoothing, precision, features and task share.

    The number of training samples and all other settings of the recipe may differ, and so may the space: the supernet
    is part of the key of a step that trains one of its slices.

    Args:
        device: The device of the trainings, which need not be there.
        surfaces: The surfaces by the step of the smallest architecture of their set; None if its sizes are not affine.
        peaks: The peak in bytes by traced step.
        traced: The number of traced architectures of each set.
        pretraining: The bytes of each traced pretraining.
        is_eager: Whether a surface is fitted for the first architecture of its set. Otherwise the first ones are traced
            on their own, until that has cost as much as the surface: most searches need few architectures of a set.
    """

    device: torch.device = CPU
    surfaces: dict[TraceKey, PeakSurface | None] = field(default_factory=dict)
    peaks: dict[TraceKey, int] = field(default_factory=dict)
    traced: Counter[TraceKey] = field(default_factory=Counter)
    pretraining: dict[PretrainingKey, PretrainingBytes] = field(default_factory=dict)
    is_eager: bool = False


class MemoryModel:
    """Predicts the peak memory of trainings with two encoders and one recipe.

    A prediction depends on the arguments only, not on earlier predictions; caches only save time. The first few
    architectures of a set (`Architecture.affine_memory`) are traced, further ones take less than a millisecond.

    The update by the optimizer is not traced: the activations are freed before it.

    Args:
        image_config: Configuration of the image encoder.
        text_config: Configuration of the text encoder.
        recipe: Batch size and optimizer.
        features: The dtype of the stored tokens, and whether their attention is stored.
        task: Shapes of inputs and outputs.
        space: The search space; a worker holds the weights of its supernet in addition to a candidate's.
        architectures_per_step: The number K of architectures per supernet step.
        traces: The cache to use, with the device; see `TraceCache` for what may share it.
    """

    def __init__(
        self,
        *,
        image_config: PreTrainedConfig,
        text_config: PreTrainedConfig,
        recipe: RecipeConfig,
        features: FeaturesConfig,
        task: TaskShapes,
        space: SearchSpace,
        architectures_per_step: int = 1,
        traces: TraceCache | None = None,
    ) -> None:
        self._traces = traces or TraceCache()
        device = self._traces.device
        self._tracer = StepTracer(
            image_config=image_config,
            text_config=text_config,
            recipe=recipe,
            features=features,
            task=task,
            supernet_at=space.supernet_at,
            device=device,
        )
        self._recipe = recipe
        self._supernet = space.supernet
        # A single process holds one sum. Of several, each computes its share of a step before gradients are summed.
        self._gradient_sums = max(-(-architectures_per_step // 2) - 1, 1)
        self._is_accelerator, self._overheads = is_accelerator(device), overheads_on(device)
        self.first_layers = 0, 0
        """The first layers of the image and the text encoder that workers compute."""
        self.process_bytes = self._overheads.process_bytes
        """Memory of an idle worker apart from its weights; to be replaced by a measurement."""
        self.holds_supernet = True
        """Whether a worker holds the weights of the supernet in addition to a candidate's."""
        self.pretraining: PretrainingSettings | None = None
        """The settings of the pretraining before each training; None without one."""

    @property
    def idle_bytes(self) -> int:
        """The memory of an idle worker: its process, the frozen weights and the supernet."""
        return self.process_bytes + self._frozen_bytes + self._supernet_bytes

    @property
    def _frozen_bytes(self) -> int:
        return self._tracer.frozen_bytes(self.first_layers) if self._is_accelerator else 0

    @property
    def _supernet_bytes(self) -> int:
        return self._tracer.weight_bytes(self._supernet) if self.holds_supernet else 0

    def parameter_count(self, architecture: Architecture) -> int:
        """Return the number of trainable parameters."""
        return self._tracer.parameter_count(architecture)

    def architecture_bytes(self, architecture: Architecture) -> int:
        """Return the predicted peak of training, without the process and the supernet, which all candidates need."""
        return self.predict(architecture).peak_bytes - self.idle_bytes

    def predict(
        self, architecture: Architecture, *, micro_batches: int = 1, budget_bytes: int | None = None
    ) -> PeakPrediction:
        """Predict the peak of training one architecture as a standalone model: in the pretraining, if that needs more.

        Evaluation needs less: its batches are no larger, and it keeps nothing for a backward pass. The batches of a
        pretraining are not divided, since its losses compare their samples.

        Args:
            architecture: An architecture of the space.
            micro_batches: The number of micro-batches per batch.
            budget_bytes: The memory budget; if the peak is close to it, the step is traced rather than interpolated.
        """
        trained_bytes = self._tracer.weight_bytes(architecture)
        weights = PeakPrediction(
            process_bytes=self.process_bytes,
            frozen_bytes=self._frozen_bytes,
            supernet_bytes=self._supernet_bytes,
            trained_bytes=trained_bytes,
            optimizer_bytes=trained_bytes * _STATE_TENSORS[self._recipe.optimizer],
            gradient_sum_bytes=0,
            step_bytes=0,
            allocator_bytes=self._overheads.allocator_bytes,
        )
        training = self._add_step(weights, self._step(architecture, micro_batches, is_slice=False), budget_bytes)
        if self.pretraining is None:
            return training
        pretraining = self._with_pretraining(weights, architecture, self.pretraining)
        return max(training, pretraining, key=lambda prediction: prediction.peak_bytes)

    def _with_pretraining(
        self, weights: PeakPrediction, architecture: Architecture, settings: PretrainingSettings
    ) -> PeakPrediction:
        """Return the prediction for the pretraining, which has weights and optimizer state of its own."""
        key = architecture, settings.recipe.batch_size, settings.objectives, settings.config
        known = self._traces.pretraining
        if key not in known:
            known[key] = self._tracer.pretraining_bytes(architecture, settings)
        needed = known[key]
        return replace(
            weights,
            trained_bytes=needed.weights,
            optimizer_bytes=needed.weights * _STATE_TENSORS[self._recipe.optimizer],
            momentum_bytes=needed.momentum,
            step_bytes=needed.step,
        )

    def predict_supernet(
        self, architecture: Architecture, *, micro_batches: int = 1, budget_bytes: int | None = None
    ) -> PeakPrediction:
        """Predict the peak of a supernet step that trains a slice, while the sum of other gradients is held.

        Args:
            architecture: An architecture of the space.
            micro_batches: The number of micro-batches per batch.
            budget_bytes: The memory budget; if the peak is close to it, the step is traced rather than interpolated.
        """
        weight_bytes = self._tracer.weight_bytes(self._supernet)
        weights = PeakPrediction(
            process_bytes=self.process_bytes,
            frozen_bytes=self._frozen_bytes,
            supernet_bytes=weight_bytes,
            trained_bytes=0,
            optimizer_bytes=weight_bytes * _STATE_TENSORS[self._recipe.optimizer],
            gradient_sum_bytes=weight_bytes * self._gradient_sums,
            step_bytes=0,
            allocator_bytes=self._overheads.allocator_bytes,
        )
        return self._add_step(weights, self._step(architecture, micro_batches, is_slice=True), budget_bytes)

    def min_micro_batches(
        self, architecture: Architecture, budget_bytes: int, *, in_supernet: bool = False
    ) -> int | None:
        """Return the smallest number of micro-batches whose predicted peak is within a budget.

        Args:
            architecture: An architecture of the space.
            budget_bytes: The memory budget of a process.
            in_supernet: Whether the architecture is trained as a slice in a supernet step.

        Returns:
            The number of micro-batches; None if even single samples do not fit.
        """

        def fits(count: int) -> bool:
            prediction = predict(architecture, micro_batches=count, budget_bytes=budget_bytes)
            return prediction.peak_bytes <= budget_bytes

        predict = self.predict_supernet if in_supernet else self.predict
        if fits(1):
            return 1
        counts = micro_batch_counts(self._recipe.batch_size)
        # Smaller micro-batches never need more memory, so that a binary search finds the first that fits.
        first = bisect.bisect_left(counts, True, key=fits)
        return counts[first] if first < len(counts) else None

    def fits_in_micro_batches(self, architecture: Architecture, budget_bytes: int) -> bool:
        """Return whether any number of micro-batches fits; takes a fraction of the time of `min_micro_batches`.

        Args:
            architecture: An architecture of the space.
            budget_bytes: The memory budget of a process.
        """
        # Smaller micro-batches never need more memory, so that only the smallest are predicted.
        count = self._recipe.batch_size
        return self.predict(architecture, micro_batches=count, budget_bytes=budget_bytes).peak_bytes <= budget_bytes

    def _step(self, architecture: Architecture, micro_batches: int, *, is_slice: bool) -> TrainingStep:
        """Return the micro-batch with the highest peak: the largest one while earlier gradients are held."""
        size = -(-self._recipe.batch_size // micro_batches)
        return TrainingStep(architecture, is_slice, size, is_first=size == self._recipe.batch_size)

    def _add_step(self, weights: PeakPrediction, step: TrainingStep, budget_bytes: int | None) -> PeakPrediction:
        peaks, key = self._traces.peaks, self._key(step)
        if key not in peaks:
            interpolated_bytes = self._interpolate(step)
            if interpolated_bytes is not None:
                prediction = self._with_start(replace(weights, step_bytes=interpolated_bytes), step)
                margin = _TRACE_MARGIN * interpolated_bytes
                if budget_bytes is None or abs(prediction.peak_bytes - budget_bytes) > margin:
                    return prediction
            peaks[key] = self._tracer.held_gradient_bytes(step) + self._tracer.trace(step).peak_bytes
        return self._with_start(replace(weights, step_bytes=peaks[key]), step)

    def _key(self, step: TrainingStep) -> TraceKey:
        return step, self._tracer.trained_architecture(step)

    def _with_start(self, prediction: PeakPrediction, step: TrainingStep) -> PeakPrediction:
        """Return the prediction for the start of the classifiers, or for reading a batch, if that needs more.

        The start comes before the first step, and so before the optimizer state and any gradient.
        """
        later_bytes = prediction.optimizer_bytes + prediction.gradient_sum_bytes
        start_bytes = self._tracer.start_bytes(prediction.step_bytes) - later_bytes
        return replace(prediction, step_bytes=max(prediction.step_bytes, start_bytes, self._tracer.reading_bytes(step)))

    def _interpolate(self, step: TrainingStep) -> int | None:
        """Return the bytes of a step from the surface of its set of architectures; None if it is to be traced."""
        affine = step.architecture.affine_memory()
        if affine is None:
            return None
        key = self._key(replace(step, architecture=affine.smallest))
        surfaces, traced = self._traces.surfaces, self._traces.traced
        if key not in surfaces:
            if not self._traces.is_eager and traced[key] <= len(affine.steps):
                traced[key] += 1
                return None
            surfaces[key] = PeakSurface.fit(
                affine, lambda architecture: self._tracer.trace(replace(step, architecture=architecture))
            )
        surface = surfaces[key]
        if surface is None:
            return None
        return self._tracer.held_gradient_bytes(step) + surface.peak_bytes(step.architecture)
