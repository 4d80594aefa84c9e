"""Predict the peak bytes of a candidate's training, and of a supernet step, without running them."""

import bisect
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.config.schema import FeaturesConfig, RecipeConfig
from nas.data.features.store import Batch
from nas.memory.interpolation import PeakSurface
from nas.memory.tracing import ShapeTracer, Trace
from nas.models.encoders.checkpoints import build_encoder
from nas.models.fusion.base import sizes_of
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.registry import load_model_class
from nas.search.space import RAW, Architecture, SearchSpace
from nas.training.losses import Loss
from nas.training.trainer import Trainer

_STATE_TENSORS = {"sgd": 1, "adamw": 2}
"""Optimiser state, in tensors as large as the parameter."""

PROCESS_BYTES = 500 * 2**20
"""Private memory of a worker beside all tensors, until one was measured; cautious. Linux x86-64, torch 2.13, Ray 2.60:
350 MiB when it has loaded encoders, 60 more with its first job, then up to 80 of oneDNN's programs; 465 after 40 jobs
of the demo."""

ALLOCATOR_BYTES = 2**20
"""Holes between tensors too small to have pages of their own: measured peaks of 44 base steps with
`map_large_tensors` were 0 to 5 MiB above their tensors, 1.6 in the middle; more would be wrong for the smallest."""

_HOLES = 0.6
"""Part of all tensors that a process holds besides when it keeps what it frees (`keep_freed_memory`), cautiously: 0.17
to 0.35 were measured of base steps, 0.25 to 0.75 of the demo's, whose PROCESS_BYTES leave room for the difference."""

_NEAR = 0.01
"""Share of a step's bytes within which a budget is near: then the step is rehearsed itself. Interpolated peaks are the
same to the byte where they were compared; this is for where they were not."""


def bytes_with_fragmentation(peak_bytes: int) -> int:
    """What a process should be granted that keeps what it frees, where one that does not has this predicted peak."""
    return peak_bytes + max(round(_HOLES * (peak_bytes - PROCESS_BYTES)), 0)


@dataclass(frozen=True)
class PeakPrediction:
    """Private bytes of one training process at its peak, by what holds them.

    Frozen weights are not among them: workers map those of the fusing layers from a file, which the system holds once.

    Args:
        process_bytes: What the process holds beside all tensors.
        supernet_bytes: The supernet's weights.
        trained_bytes: Weights of a candidate beside it.
        optimizer_bytes: State of the optimiser.
        summed_bytes: Gradients of several architectures, in a supernet step.
        step_bytes: Batch, activations and gradients of forward and backward.
        allocator_bytes: What the allocator holds between tensors.
    """

    process_bytes: int
    supernet_bytes: int
    trained_bytes: int
    optimizer_bytes: int
    summed_bytes: int
    step_bytes: int
    allocator_bytes: int

    @property
    def training_bytes(self) -> int:
        """Of the training alone: weights, optimiser state, and a step."""
        return self.trained_bytes + self.optimizer_bytes + self.summed_bytes + self.step_bytes

    @property
    def peak_bytes(self) -> int:
        weights = self.supernet_bytes + self.trained_bytes + self.optimizer_bytes + self.summed_bytes
        return self.process_bytes + weights + self.step_bytes + self.allocator_bytes


@dataclass(frozen=True)
class _Step:
    """Forward and backward of one micro-batch.

    Args:
        architecture: What is trained.
        is_slice: Whether it is a slice of the supernet, or stands alone.
        size: Samples.
        is_first: Whether there are no gradients of earlier micro-batches.
    """

    architecture: Architecture
    is_slice: bool
    size: int
    is_first: bool


@dataclass(frozen=True)
class TracedShapes:
    """What steps have been found to allocate: models with the same arguments can share it.

    Args:
        surfaces: By the key of a surface; None where there is none.
        peaks: Bytes, by step.
    """

    surfaces: dict[_Step, PeakSurface | None] = field(default_factory=dict)
    peaks: dict[_Step, int] = field(default_factory=dict)


class MemoryModel:
    """Predicts peaks of two encoders on one recipe.

    A prediction depends on the arguments alone, never on what was asked before: what is remembered saves time. The
    first architectures of an L_f, an M_qp and a batch size cost some rehearsals, the others less than a millisecond.

    The optimiser's own step is not looked at: when it comes, the activations are gone.

    Args:
        image_config: Configuration of the image encoder.
        text_config: Configuration of the text encoder.
        recipe: Batch size and optimiser.
        image_shape: Of the pixels of an image, (3, height, width).
        image_token_count: S.
        text_token_count: T of the longest text, for which the peak is predicted.
        num_classes: C.
        features: Type of the tokens that are read, and whether their attention is read with them.
        space: Of the candidates; a worker holds the weights of its largest beside the candidate's.
        process_bytes: What a worker holds before it trains.
        has_several_labels: Whether a sample may have several labels.
        architectures_per_step: K, of the supernet.
        rehearsed: By another one with the same arguments, apart from `process_bytes` and K.
    """

    def __init__(
        self,
        *,
        image_config: PreTrainedConfig,
        text_config: PreTrainedConfig,
        recipe: RecipeConfig,
        image_shape: tuple[int, ...],
        image_token_count: int,
        text_token_count: int,
        num_classes: int,
        features: FeaturesConfig,
        space: SearchSpace,
        process_bytes: int = PROCESS_BYTES,
        has_several_labels: bool = False,
        architectures_per_step: int = 1,
        rehearsed: TracedShapes | None = None,
    ) -> None:
        self._rehearsal = ShapeTracer()
        with self._rehearsal:
            self._image_encoder = build_encoder(image_config)
            self._text_encoder = build_encoder(text_config)
        self._recipe = recipe
        self._raw_shapes = (image_shape, (text_token_count,))
        self._tokens = (image_token_count, text_token_count)
        self._sizes = sizes_of(self._image_encoder, self._text_encoder)
        self._counts: dict[Architecture, int] = {}
        self._class_count = num_classes
        self._has_several_labels = has_several_labels
        # One sum; of two processes or more, each computes its share of a step before any is summed.
        self._gradient_sums = max(-(-architectures_per_step // 2) - 1, 1)
        self._features = features
        self._supernet, self._largest_at = space.largest, space.largest_at
        self.process_bytes = process_bytes
        """Set it to what a worker holds that has loaded encoders and given back what it freed, once that is known."""
        self.holds_supernet = True
        """Whether a worker holds the supernet's weights beside a candidate's."""
        self._rehearsed = rehearsed or TracedShapes()

    @property
    def idle_bytes(self) -> int:
        """What a worker holds that has nothing to do: its process and the supernet."""
        return self.process_bytes + self._supernet_bytes

    @property
    def _supernet_bytes(self) -> int:
        return self._weight_bytes(self._supernet) if self.holds_supernet else 0

    def predict(
        self, architecture: Architecture, *, micro_batches: int = 1, budget_bytes: int | None = None
    ) -> PeakPrediction:
        """Peak of training the architecture stand-alone.

        Evaluation needs less: its batches are as large, and it keeps nothing for a backward pass.

        Args:
            architecture: Of the space.
            micro_batches: Parts that every batch is cut into.
            budget_bytes: Where the peak is near it, the step itself is rehearsed, whatever it costs.
        """
        trained = self._weight_bytes(architecture)
        held = PeakPrediction(
            process_bytes=self.process_bytes,
            supernet_bytes=self._supernet_bytes,
            trained_bytes=trained,
            optimizer_bytes=trained * _STATE_TENSORS[self._recipe.optimizer],
            summed_bytes=0,
            step_bytes=0,
            allocator_bytes=ALLOCATOR_BYTES,
        )
        return self._with_step(held, architecture, micro_batches, budget_bytes, is_slice=False)

    def predict_supernet(
        self, architecture: Architecture, *, micro_batches: int = 1, budget_bytes: int | None = None
    ) -> PeakPrediction:
        """Peak of a supernet step that trains this slice: one more of several whose gradients are summed.

        Args:
            architecture: Of the space.
            micro_batches: Parts that every batch is cut into.
            budget_bytes: As in `predict`.
        """
        weights = self._weight_bytes(self._supernet)
        held = PeakPrediction(
            process_bytes=self.process_bytes,
            supernet_bytes=weights,
            trained_bytes=0,
            optimizer_bytes=weights * _STATE_TENSORS[self._recipe.optimizer],
            summed_bytes=weights * self._gradient_sums,
            step_bytes=0,
            allocator_bytes=ALLOCATOR_BYTES,
        )
        return self._with_step(held, architecture, micro_batches, budget_bytes, is_slice=True)

    @property
    def _ways_to_cut(self) -> list[int]:
        """Counts of micro-batches above 1, ascending, each the least for its size of the largest one."""
        size = self._recipe.batch_size
        counts = {-(-size // count): count for count in range(size, 1, -1)}
        return sorted(counts.values())

    def architecture_bytes(self, architecture: Architecture) -> int:
        """Predicted peak of training it, without the process and the supernet, which every candidate needs."""
        return self.predict(architecture).peak_bytes - self.idle_bytes

    def min_micro_batches(
        self, architecture: Architecture, budget_bytes: int, *, in_supernet: bool = False
    ) -> int | None:
        """The fewest micro-batches with which training the architecture stays within a budget.

        Args:
            architecture: Of the space.
            budget_bytes: What a process may hold.
            in_supernet: Whether it is trained as a slice, in a supernet step.

        Returns:
            Their count; None if not even single samples fit.
        """

        def fits(count: int) -> bool:
            prediction = predict(architecture, micro_batches=count, budget_bytes=budget_bytes)
            return prediction.peak_bytes <= budget_bytes

        predict = self.predict_supernet if in_supernet else self.predict
        if fits(1):
            return 1
        ways = self._ways_to_cut
        # Smaller micro-batches never need more.
        first = bisect.bisect_left(ways, True, key=fits)
        return ways[first] if first < len(ways) else None

    def _with_step(
        self,
        held: PeakPrediction,
        architecture: Architecture,
        micro_batches: int,
        budget_bytes: int | None,
        *,
        is_slice: bool,
    ) -> PeakPrediction:
        size = -(-self._recipe.batch_size // micro_batches)
        # With gradients of earlier micro-batches held throughout, a later one needs more than the first.
        step = _Step(architecture, is_slice, size, is_first=size == self._recipe.batch_size)
        interpolated = self._interpolated(step)
        if interpolated is not None:
            prediction = replace(held, step_bytes=interpolated)
            if budget_bytes is None or abs(prediction.peak_bytes - budget_bytes) > _NEAR * interpolated:
                return prediction
        peaks = self._rehearsed.peaks
        if step not in peaks:
            peaks[step] = self._held_gradients(step) + self._trace(step).peak_bytes
        return replace(held, step_bytes=peaks[step])

    def _interpolated(self, step: _Step) -> int | None:
        affine = step.architecture.affine_memory()
        if affine is None:
            return None
        key = replace(step, architecture=affine.smallest)
        surfaces = self._rehearsed.surfaces
        if key not in surfaces:
            surfaces[key] = PeakSurface.of(
                affine, lambda architecture: self._trace(replace(step, architecture=architecture))
            )
        surface = surfaces[key]
        return None if surface is None else self._held_gradients(step) + surface.peak_bytes(step.architecture)

    def _held_gradients(self, step: _Step) -> int:
        """Bytes of the gradients of earlier micro-batches."""
        return 0 if step.is_first else self._weight_bytes(self._trained(step))

    def _trained(self, step: _Step) -> Architecture:
        """Of the weights that get gradients: those of a slice are as large as the layers that it is cut from."""
        if not step.is_slice:
            return step.architecture
        return self._largest_at(step.architecture.first_layer)

    def _trace(self, step: _Step) -> Trace:
        """What forward and backward allocate, from the batch on."""
        with self._rehearsal:
            model = load_model_class(step.architecture.family)(
                image_encoder=self._image_encoder,
                text_encoder=self._text_encoder,
                architecture=self._trained(step),
                num_classes=self._class_count,
            )
            if not step.is_first:
                for parameter in model.parameters():
                    parameter.grad = torch.empty_like(parameter)
            trainer = Trainer(
                model=model, recipe=self._recipe, step_count=1, loss=Loss(None, self._recipe.label_smoothing)
            )
            self._rehearsal.start()
            parts = (self._batch(step) for _ in range(1))  # held by the step alone, as it reads it
            trainer.accumulate_gradients(parts, self._recipe.batch_size, step.architecture)
            return self._rehearsal.stop()

    def _batch(self, step: _Step) -> Batch:
        """A batch of the longest texts, as a feature store gives it."""
        dtype = getattr(torch, self._features.dtype)
        encoders, reads = (self._image_encoder, self._text_encoder), step.architecture.entry_layers(self._sizes)
        tokens: list[Tensor] = []
        attention: list[DataAttention | None] = []
        for encoder, layer, count, raw in zip(encoders, reads, self._tokens, self._raw_shapes, strict=True):
            known: DataAttention | None = None
            if layer is None:
                rows = torch.empty(step.size, 0)
            elif layer == RAW:
                rows = torch.empty(step.size, *raw, dtype=dtype if len(raw) > 1 else torch.int64)
            else:
                rows = torch.empty(step.size, count, encoder.hidden_size, dtype=dtype)
                uses_attention = self._features.attention and step.architecture.reads_attention
                if uses_attention and encoder.num_layers - layer > 1:
                    heads = encoder.layers[0].projections.num_heads
                    known = DataAttention(torch.empty_like(rows), torch.empty(*rows.shape[:2], heads))
            tokens.append(rows)
            attention.append(known)
        return Batch(
            image_tokens=tokens[0],
            text_tokens=tokens[1],
            text_mask=torch.ones(step.size, self._tokens[1], dtype=torch.bool),
            labels=self._labels(step.size),
            image_attention=attention[0],
            text_attention=attention[1],
        )

    def _labels(self, count: int) -> Tensor:
        if self._has_several_labels:
            return torch.zeros(count, self._class_count)
        return torch.zeros(count, dtype=torch.int64)

    def _weight_bytes(self, architecture: Architecture) -> int:
        """Of the trained weights of an architecture; they are float32."""
        return 4 * self.parameter_count(architecture)

    def parameter_count(self, architecture: Architecture) -> int:
        """Trainable parameters."""
        if architecture not in self._counts:
            with self._rehearsal:
                self._counts[architecture] = load_model_class(architecture.family).parameter_count(
                    (self._image_encoder, self._text_encoder), architecture, self._class_count
                )
        return self._counts[architecture]
