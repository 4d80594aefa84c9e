import pytest
import torch
from transformers import BertConfig, ViTConfig

from nas.config import FeaturesConfig, LearningRatesConfig, RecipeConfig
from nas.data import Batch
from nas.encoders import build_encoder
from nas.fusion import build_model
from nas.fusion.attention import DataAttention
from nas.memory import MemoryModel, PeakSampler, PeakTracker, private_bytes, release_freed_memory
from nas.space import Architecture
from nas.training import Trainer

IMAGE = ViTConfig(
    hidden_size=48,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=96,
    image_size=32,
    patch_size=8,
    attn_implementation="sdpa",
)
TEXT = BertConfig(
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
    learning_rates=LearningRatesConfig(1e-3, 1e-3, 1e-3),
    depth_scaling=0.0,
    weight_decay=0.0,
    momentum=0.9,
    schedule="constant",
    warmup_share=0.0,
    clip_norm=None,
    batch_size=6,
    epochs=1,
    class_weights="none",
    label_smoothing=0.0,
)
ARCHITECTURES = [
    Architecture(2, 1, 0, 0, 4),
    Architecture(1, 4, 4, 4, 16),
    Architecture(0, 2, 0, 3, 64),
    Architecture(0, 8, 8, 8, 64),
]


def memory_model(attention: bool = False) -> MemoryModel:
    return MemoryModel(
        image_config=IMAGE,
        text_config=TEXT,
        recipe=RECIPE,
        image_token_count=17,
        text_token_count=9,
        class_count=5,
        features=FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=attention, views=1),
        supernet=ARCHITECTURES[-1],
    )


@pytest.mark.parametrize("attention", [False, True], ids=["tokens", "attention"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_predicted_peak_of_a_step_is_the_real_one_to_the_byte(architecture: Architecture, attention: bool) -> None:
    torch.manual_seed(0)
    image_encoder, text_encoder = build_encoder(IMAGE), build_encoder(TEXT)
    with torch.no_grad():
        for encoder in (image_encoder, text_encoder):
            for parameter in encoder.parameters():
                parameter.normal_(std=0.02)
    model = build_model(
        image_encoder=image_encoder, text_encoder=text_encoder, architecture=architecture, class_count=5, seed=0
    )
    trainer = Trainer(model=model, recipe=RECIPE, step_count=1, weights=None)
    stores = attention and architecture.fusion_layer < 2  # with one fusing layer nobody reads it
    weights = [*model.parameters(), *image_encoder.parameters(), *text_encoder.parameters()]
    with PeakTracker(weights) as tracker:
        batch = Batch(
            image_tokens=torch.randn(6, 17, 48).half(),
            text_tokens=torch.randn(6, 9, 32).half(),
            text_mask=torch.ones(6, 9, dtype=torch.bool),
            labels=torch.zeros(6, dtype=torch.int64),
            image_attention=DataAttention(torch.randn(6, 17, 48).half(), torch.randn(6, 17, 3)) if stores else None,
            text_attention=DataAttention(torch.randn(6, 9, 32).half(), torch.randn(6, 9, 2)) if stores else None,
        )
        trainer.accumulate_gradients([batch], 6)
    assert memory_model(attention).predict(architecture).step_bytes == tracker.peak_bytes


def test_weights_and_optimizer_state_are_counted() -> None:
    architecture = ARCHITECTURES[1]
    prediction = memory_model().predict(architecture)
    image_encoder, text_encoder = build_encoder(IMAGE), build_encoder(TEXT)
    model = build_model(
        image_encoder=image_encoder, text_encoder=text_encoder, architecture=architecture, class_count=5, seed=0
    )
    assert prediction.trained_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert prediction.optimizer_bytes == 2 * prediction.trained_bytes


def test_every_gene_adds_to_the_peak() -> None:
    memory, base = memory_model(), Architecture(1, 2, 2, 2, 8)
    peak = memory.predict(base).peak_bytes
    for larger in (
        Architecture(0, 2, 2, 2, 8),
        Architecture(1, 4, 2, 2, 8),
        Architecture(1, 2, 4, 2, 8),
        Architecture(1, 2, 2, 4, 8),
        Architecture(1, 2, 2, 2, 16),
    ):
        assert memory.predict(larger).peak_bytes > peak


def test_a_prediction_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_model()
    first = memory.predict(ARCHITECTURES[0])
    monkeypatch.setattr(memory, "_predict", lambda architecture: pytest.fail("predicted again"))
    assert memory.predict(ARCHITECTURES[0]) is first


def test_the_tracker_follows_release_as_well_as_allocation() -> None:
    with PeakTracker() as tracker:
        first = torch.ones(1000)
        view = first[:10]
        del first
        assert tracker.live_bytes == 4000  # the view holds the storage
        del view
        assert tracker.live_bytes == 0
        torch.ones(500)
    assert tracker.peak_bytes == 4000


def test_private_memory_shows_what_is_held() -> None:
    release_freed_memory()  # else the block may take the place of what earlier tests have freed
    before = private_bytes()
    with PeakSampler() as sampler:
        block = torch.ones(16 * 2**20)
    assert sampler.peak_bytes - before > 0.9 * block.numel() * block.element_size()
