"""Tiny encoders and a recipe whose peaks are predicted, and the peaks of real steps."""

import torch
from transformers import BertConfig, ViTConfig

from nas.config.data_schema import FeaturesConfig
from nas.config.training_schema import LearningRatesConfig, RecipeConfig
from nas.data.features.store import Batch
from nas.memory.prediction import MemoryModel, TraceCache
from nas.memory.step_tracing import TaskShapes
from nas.memory.tracker import PeakTracker
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder
from nas.models.fusion.base import FusionModel
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.search.space import Architecture, SearchSpace
from nas.training.losses import Loss
from nas.training.trainer import Trainer

IMAGE = ViTConfig(  # type: ignore[call-arg]
    hidden_size=48,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=96,
    image_size=32,
    patch_size=8,
    attn_implementation="sdpa",
)
TEXT = BertConfig(  # type: ignore[call-arg]
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=32,
    attn_implementation="sdpa",
)
RECIPE = RecipeConfig(
    optimizer="adamw",
    learning_rates=LearningRatesConfig.of_all(1e-3),
    depth_scaling=0.0,
    weight_decay=0.0,
    momentum=0.9,
    schedule="constant",
    warmup_fraction=0.0,
    clip_norm=None,
    batch_size=6,
    epochs=1,
    class_weights="none",
    label_smoothing=0.0,
)
SPACE = SearchSpace(
    PMFArchitecture,
    {
        "fusion_layer": (0, 1, 2),
        "query_prompts": (1, 16),
        "query_context_prompts": (0, 1, 5),
        "fusion_context_prompts": (0, 1, 8),
        "mapping_width": (1, 16),
        "image_readout": (0, 1),
        "text_readout": (0, 1),
    },
)
"""Lengths of 0 and 1, with which a step runs other operations; few query prompts are absorbed, many are not."""


_TRACES = {attention: TraceCache() for attention in (False, True)}


def memory_model(
    attention: bool = False,
    batch_size: int | None = None,
    traces: TraceCache | None = None,
    recipe: RecipeConfig = RECIPE,
    space: SearchSpace = SPACE,
) -> MemoryModel:
    """Return predictions that use the traces of earlier ones, unless others are given."""
    return MemoryModel(
        image_config=IMAGE,
        text_config=TEXT,
        recipe=recipe if batch_size is None else recipe.replace(batch_size=batch_size),
        features=FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=attention, views=1),
        space=space,
        task=TaskShapes((3, 16, 16), image_token_count=17, text_token_count=9, num_classes=5),
        traces=_TRACES[attention] if traces is None else traces,
    )


def real_encoders() -> tuple[Encoder, Encoder]:
    torch.manual_seed(0)
    encoders = build_encoder(IMAGE), build_encoder(TEXT)
    with torch.no_grad():
        for encoder in encoders:
            for parameter in encoder.parameters():
                parameter.normal_(std=0.02)
    return encoders


def real_model(architecture: Architecture) -> FusionModel:
    image_encoder, text_encoder = real_encoders()
    return build_model(
        image_encoder=image_encoder, text_encoder=text_encoder, architecture=architecture, num_classes=5, seed=0
    )


def real_batch(size: int, *, attention: bool) -> Batch:
    image, text = torch.randn(size, 17, 48).half(), torch.randn(size, 9, 32).half()
    return Batch(
        image_tokens=image,
        text_tokens=text,
        text_mask=torch.ones(size, 9, dtype=torch.bool),
        labels=torch.zeros(size, dtype=torch.int64),
        image_attention=DataAttention(image.clone(), torch.randn(size, 17, 3)) if attention else None,
        text_attention=DataAttention(text.clone(), torch.randn(size, 9, 2)) if attention else None,
    )


def real_peak(model: FusionModel, architecture: Architecture, sizes: list[int], *, attention: bool = False) -> int:
    """Return the peak bytes of the real tensors of forward and backward over micro-batches, without weights."""
    trainer = Trainer(model=model, recipe=RECIPE, step_count=1, loss=Loss(None, RECIPE.label_smoothing))
    stores = attention and architecture.first_layer < 2  # a single fusing layer does not read it
    weights = [*model.parameters(), *model.encoders[0].parameters(), *model.encoders[1].parameters()]
    tracker = PeakTracker(weights)
    with tracker:
        micro_batches = (real_batch(size, attention=stores) for size in sizes)
        trainer.accumulate_gradients(micro_batches, sum(sizes), architecture)
    return tracker.peak_bytes
