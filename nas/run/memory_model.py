"""Memory predictions of a search, whose traces all searches of one process share."""

from dataclasses import replace
from functools import lru_cache

import torch
from transformers import PreTrainedConfig

from nas.config.schema import Config
from nas.memory.prediction import MemoryModel, TraceCache
from nas.memory.step_tracing import TaskShapes
from nas.training.pretraining.settings import PretrainingSettings


def build_memory_model(
    config: Config,
    encoders: tuple[PreTrainedConfig, PreTrainedConfig],
    task: TaskShapes,
    *,
    first_layers: tuple[int, int],
    device: torch.device,
) -> MemoryModel:
    """Return the memory predictions of a search.

    Args:
        config: The configuration of the search.
        encoders: The configurations of the image and the text encoder.
        task: The shapes of the task.
        first_layers: The first layers of the image and the text encoder that workers compute.
        device: The device of the workers, which need not be there.
    """
    image_config, text_config = encoders
    # All that the bytes of a step depend on, besides the architecture; see `TraceCache`.
    features = (config.features.dtype, config.features.attention, config.features.storage == "none")
    shared_by = (config.recipe.label_smoothing, config.recipe.precision, features, replace(task, train_samples=0))
    memory = MemoryModel(
        image_config=image_config,
        text_config=text_config,
        recipe=config.recipe,
        features=config.features,
        task=task,
        space=config.space,
        architectures_per_step=config.supernet.architectures_per_step,
        traces=_trace_cache(image_config.to_json_string(), text_config.to_json_string(), repr(shared_by), device.type),
    )
    memory.first_layers = first_layers
    memory.pretraining = PretrainingSettings.of(config, config.space.architecture_class, None)
    return memory


@lru_cache(maxsize=16)
def _trace_cache(image_config: str, text_config: str, shared_by: str, device: str) -> TraceCache:
    """Return the traces that searches of one process share, as in a comparison, since tracing takes seconds."""
    del image_config, text_config, shared_by
    return TraceCache(torch.device(device))
