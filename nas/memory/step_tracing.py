"""Trace the forward and backward passes of training steps on encoders without data."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.common.devices import CPU, is_accelerator, product_dtype
from nas.config.data_schema import FeaturesConfig
from nas.config.training_schema import RecipeConfig
from nas.data.features.eight_bits import read_dtype
from nas.data.features.frozen import FrozenLayers
from nas.data.features.raw_images import decoding_bytes
from nas.data.features.store import Batch
from nas.memory.overheads import overheads_on
from nas.memory.tracing import ShapeTracer, Trace
from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder
from nas.models.encoders.held_weights import hold_products_in
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import FusionModel, sizes_of
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.model_classes import load_model_class
from nas.search.metric_registry import LabelKind
from nas.search.space import RAW, Architecture
from nas.training.contrastive import ContrastiveLoss
from nas.training.linear_start import start_bytes
from nas.training.losses import Loss
from nas.training.objectives.contrastive import PairItems
from nas.training.objectives.masked_language import MaskedTexts, max_masked_count
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from nas.training.trainer import Trainer

_WEIGHT_BYTES = 4
"""Bytes of a trained weight, which is float32."""
_PIXEL_BYTES = 4
"""Bytes of a processed pixel value, which is float32."""


def blocks(tensors: Iterable[Tensor], block_bytes: int) -> int:
    """Return the bytes that an allocator gives to tensors."""
    return sum(-(-tensor.numel() * tensor.element_size() // block_bytes) * block_bytes for tensor in tensors)


@dataclass(frozen=True)
class TaskShapes:
    """Shapes of the inputs and outputs of a task.

    Args:
        image_shape: The shape of the pixels of an image, (3, height, width).
        image_token_count: The number of image tokens S.
        text_token_count: The number of tokens T of the longest text, for which peaks are predicted.
        num_classes: The number of classes C; 0 for retrieval.
        label_kind: What samples are evaluated by.
        train_samples: The number of training samples.
        class_texts: The texts of the classes, for a family that reads them.
        largest_picture: The number of pixels of the largest picture that steps decode; 0 where they decode none.
    """

    image_shape: tuple[int, ...]
    image_token_count: int
    text_token_count: int
    num_classes: int
    label_kind: LabelKind = "single"
    train_samples: int = 0
    class_texts: ClassTexts | None = None
    largest_picture: int = 0


@dataclass(frozen=True)
class TrainingStep:
    """Forward and backward pass of one micro-batch.

    Args:
        architecture: The architecture to train.
        is_slice: Whether it is a slice of the supernet rather than a standalone model.
        batch_size: The number of samples of the micro-batch.
        is_first: Whether no gradients of earlier micro-batches are held.
    """

    architecture: Architecture
    is_slice: bool
    batch_size: int
    is_first: bool


@dataclass(frozen=True)
class PretrainingBytes:
    """Memory of the pretraining of one architecture, in bytes by purpose.

    Args:
        weights: The trained weights, those of the heads included.
        momentum: The momentum model, and its embeddings in the queue.
        step: The batch, activations and gradients of forward and backward pass.
    """

    weights: int
    momentum: int
    step: int


class StepTracer:
    """Traces training steps of any architecture of two encoders.

    Args:
        image_config: Configuration of the image encoder.
        text_config: Configuration of the text encoder.
        recipe: Recipe of the training.
        features: The dtype of the stored tokens, and whether their attention is stored.
        task: Shapes of the task.
        supernet_at: Function that returns the architecture of the supernet with a given first layer, which cuts its
            slices.
        device: The device of the training, which need not be there.
    """

    def __init__(
        self,
        *,
        image_config: PreTrainedConfig,
        text_config: PreTrainedConfig,
        recipe: RecipeConfig,
        features: FeaturesConfig,
        task: TaskShapes,
        supernet_at: Callable[[int], Architecture],
        device: torch.device = CPU,
    ) -> None:
        self._shape_tracer = ShapeTracer(device)
        self._block_bytes = overheads_on(device).block_bytes
        self._decodes = task.largest_picture > 0 and not is_accelerator(device)  # pictures are in the host's memory
        with self._shape_tracer:
            self._encoders = build_encoder(image_config), build_encoder(text_config)
            if recipe.precision != "float32":
                for encoder in self._encoders:
                    hold_products_in(encoder, product_dtype(recipe.precision))
            self._class_texts = None if task.class_texts is None else task.class_texts.without_values()
        self._sizes = sizes_of(*self._encoders)
        self._recipe = recipe
        self._features = features
        self._task = task
        self._supernet_at = cache(supernet_at)
        self._parameter_counts: dict[Architecture, int] = {}
        self._weight_bytes: dict[Architecture, int] = {}
        self._frozen_bytes: dict[tuple[int, int], int] = {}

    def parameter_count(self, architecture: Architecture) -> int:
        """Return the number of trainable parameters."""
        if architecture not in self._parameter_counts:
            with self._shape_tracer:
                self._parameter_counts[architecture] = load_model_class(architecture.family).parameter_count(
                    self._encoders, architecture, self._task.num_classes
                )
        return self._parameter_counts[architecture]

    def weight_bytes(self, architecture: Architecture) -> int:
        """Return the bytes of the trained weights."""
        if self._block_bytes == 1:
            return _WEIGHT_BYTES * self.parameter_count(architecture)
        if architecture not in self._weight_bytes:
            with self._shape_tracer:
                weights = self._build_model(architecture).parameters()
            self._weight_bytes[architecture] = blocks(weights, self._block_bytes)
        return self._weight_bytes[architecture]

    def frozen_bytes(self, first_layers: tuple[int, int]) -> int:
        """Return the bytes of the frozen weights that a worker has on an accelerator.

        Args:
            first_layers: The first layers of the image and the text encoder that workers compute; see `WorkerSetup`.
        """
        if first_layers not in self._frozen_bytes:
            with self._shape_tracer:
                self._frozen_bytes[first_layers] = sum(
                    blocks(tail_weights(encoder, start).values(), self._block_bytes)
                    for encoder, start in zip(self._encoders, first_layers, strict=True)
                    if start != RAW  # trained: a model has a copy
                )
        return self._frozen_bytes[first_layers]

    def start_bytes(self, step_bytes: int) -> int:
        """Return the bytes that are needed to set the classifiers before the first step; see `start_classifiers`.

        Args:
            step_bytes: The bytes of a step, which are more than those of a forward pass without a graph.
        """
        if self._recipe.classifier_start == "random":
            return 0
        task, size = self._task, self._sizes.image_hidden_size + self._sizes.text_hidden_size
        return start_bytes(task.train_samples, size, task.num_classes, forward_bytes=step_bytes)

    def held_gradient_bytes(self, step: TrainingStep) -> int:
        """Return the bytes of the gradients of earlier micro-batches, which are held throughout a step."""
        return 0 if step.is_first else self.weight_bytes(self.trained_architecture(step))

    def reading_bytes(self, step: TrainingStep) -> int:
        """Return the bytes that are held while the pictures of a batch are decoded, before a step computes with them.

        These are the pictures that are decoded at the same time, the pixel values of all, once more while they become
        one batch, and the gradients of earlier micro-batches.

        Args:
            step: The step; 0 bytes if it reads no images, or no pictures are decoded.
        """
        if not self._decodes or step.architecture.entry_layers(self._sizes).image is None:
            return 0
        pixels = _PIXEL_BYTES * step.batch_size * math.prod(self._task.image_shape)
        return self.held_gradient_bytes(step) + 2 * pixels + decoding_bytes(self._task.largest_picture)

    def trace(self, step: TrainingStep) -> Trace:
        """Trace forward and backward pass, including the batch and new gradients, without weights."""
        with self._shape_tracer:
            model = self._build_model(self.trained_architecture(step))
            if not step.is_first:
                for parameter in model.parameters():
                    parameter.grad = torch.empty_like(parameter)
            loss = self._loss()
            trainer = Trainer(model=model, recipe=self._recipe, step_count=1, loss=loss)
            self._shape_tracer.start()
            batches = (self._batch(step) for _ in range(1))  # a generator, so that only the step itself holds the batch
            trainer.accumulate_gradients(batches, self._recipe.batch_size, step.architecture)
            return self._shape_tracer.stop()

    def pretraining_bytes(self, architecture: Architecture, settings: PretrainingSettings) -> PretrainingBytes:
        """Trace the step of a pretraining with a full queue.

        Args:
            architecture: An architecture of a family that can be pretrained.
            settings: The settings of the pretraining.
        """
        with self._shape_tracer:
            pretrainer = Pretrainer(self._build_model(architecture), settings)
            pretrainer.fill_queue(self._pairs(architecture, settings))
            weights = blocks(pretrainer.model.parameters(), self._block_bytes)
            momentum = blocks(pretrainer.momentum_tensors(), self._block_bytes)
            self._shape_tracer.start()
            pretrainer.accumulate_gradients(self._pairs(architecture, settings), settings.config.distillation)
            peak = self._shape_tracer.stop().peak_bytes
        step = TrainingStep(architecture, is_slice=False, batch_size=settings.recipe.batch_size, is_first=True)
        return PretrainingBytes(weights, momentum, max(peak, self.reading_bytes(step)))

    def _pairs(self, architecture: Architecture, settings: PretrainingSettings) -> PairBatch:
        """Return the pairs of a step of a pretraining, as many of whose tokens are masked as can be."""
        size, tokens = settings.recipe.batch_size, self._task.text_token_count
        masked = None
        if "masked_language" in settings.objectives:
            count = max_masked_count(size, tokens)
            places, targets = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
            masked = MaskedTexts(torch.zeros(size, tokens, dtype=torch.int64), places, targets)
        return PairBatch(
            self._batch(TrainingStep(architecture, is_slice=False, batch_size=size, is_first=True)),
            PairItems(torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)),
            torch.empty(2, size, size),
            masked,
        )

    def _loss(self) -> Loss | ContrastiveLoss:
        if self._task.label_kind == "pairs":
            return ContrastiveLoss(np.zeros((1, 2), dtype=np.int64))
        return Loss(None, self._recipe.label_smoothing)

    def trained_architecture(self, step: TrainingStep) -> Architecture:
        """Return the architecture of the weights with gradients; a slice has gradients as large as the supernet's."""
        if not step.is_slice:
            return step.architecture
        return self._supernet_at(step.architecture.first_layer)

    def _build_model(self, architecture: Architecture) -> FusionModel:
        image_encoder, text_encoder = self._encoders
        return load_model_class(architecture.family)(
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            architecture=architecture,
            num_classes=self._task.num_classes,
            class_texts=self._class_texts,
        )

    def _batch(self, step: TrainingStep) -> Batch:
        """Return a batch with texts of the largest length, as the feature store would read it."""
        if self._features.storage == "none":
            return self._raw_batch(step)
        size, task = step.batch_size, self._task
        (image, text), (image_layer, text_layer) = self._encoders, step.architecture.entry_layers(self._sizes)
        dtype = read_dtype(self._features.dtype)
        if image_layer == RAW:
            image_tokens, image_attention = torch.empty(size, *task.image_shape, dtype=dtype), None
        else:
            image_tokens, image_attention = self._tokens(step, image, image_layer, task.image_token_count)
        if text_layer == RAW:
            text_tokens, text_attention = torch.empty(size, task.text_token_count, dtype=torch.int64), None
        else:
            text_tokens, text_attention = self._tokens(step, text, text_layer, task.text_token_count)
        return Batch(
            image_tokens=image_tokens,
            text_tokens=text_tokens,
            text_mask=torch.ones(size, task.text_token_count, dtype=torch.bool),
            labels=self._labels(size),
            image_attention=image_attention,
            text_attention=text_attention,
        )

    def _raw_batch(self, step: TrainingStep) -> Batch:
        """Return a batch of raw inputs, with the frozen layers that they have yet to pass."""
        size, task, encoders = step.batch_size, self._task, self._encoders
        layers = step.architecture.entry_layers(self._sizes)
        image, text = (
            None if layer is None or layer == RAW else FrozenLayers(encoder, RAW, layer)
            for encoder, layer in zip(encoders, layers, strict=True)
        )
        ids = torch.zeros(size, task.text_token_count, dtype=torch.int64)
        return Batch(
            image_tokens=torch.empty(size, 0) if layers.image is None else torch.empty(size, *task.image_shape),
            text_tokens=torch.empty(size, 0) if layers.text is None else ids,
            text_mask=torch.ones(size, task.text_token_count, dtype=torch.bool),
            labels=self._labels(size),
            image_layers=image,
            text_layers=text,
        )

    def _tokens(
        self, step: TrainingStep, encoder: Encoder, layer: int | None, count: int
    ) -> tuple[Tensor, DataAttention | None]:
        """Return the stored tokens of one encoder, and their attention if a model reads it."""
        if layer is None:
            return torch.empty(step.batch_size, 0), None
        dtype = read_dtype(self._features.dtype)
        tokens = torch.empty(step.batch_size, count, encoder.hidden_size, dtype=dtype)
        # In the last layer only the readout rows are computed, so that no attention is stored for it.
        is_last = encoder.num_layers - layer <= 1
        if is_last or not (self._features.attention and step.architecture.reads_attention):
            return tokens, None
        heads = encoder.layers[0].projections.num_heads
        return tokens, DataAttention(torch.empty_like(tokens), torch.empty(*tokens.shape[:2], heads))

    def _labels(self, count: int) -> Tensor:
        match self._task.label_kind:
            case "multiple":
                return torch.zeros(count, self._task.num_classes)
            case "pairs":
                return torch.zeros(count, 2, dtype=torch.int64)
        return torch.zeros(count, dtype=torch.int64)
