"""Register the classes of exported models with transformers; importing this module does it.

Afterwards transformers' own functions open an exported folder, which names no code to download:

- `AutoConfig` gives a `FusionConfig`.
- `AutoModelForSequenceClassification` and `AutoModel` give a `FusionForClassification`. It returns logits and loss as a
  `SequenceClassifierOutput`; transformers has no auto class for classifiers of pictures with texts.
- `FusionForRetrieval` has no auto class; it returns embeddings of pictures and texts.
- `AutoProcessor` gives a `FusionProcessor`.
- `pipeline("multimodal-classification", model=folder)` gives a `FusionPipeline`.

`nas.load` and `nas.FusionForClassification` import this module; `import nas` alone does not.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from nas.models.classifier import FusionConfig, FusionForClassification
from nas.models.retrieval import FusionForRetrieval
from nas.run.classification_pipeline import TASK, FusionPipeline
from nas.run.loaded_model import load
from nas.run.processor import FusionProcessor

__all__ = [
    "TASK",
    "FusionConfig",
    "FusionForClassification",
    "FusionForRetrieval",
    "FusionPipeline",
    "FusionProcessor",
    "load",
]


def _register() -> None:
    """Register all classes; a second call, as after a reload, replaces them."""
    AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForSequenceClassification):
        auto_class.register(FusionConfig, FusionForClassification, exist_ok=True)
    AutoProcessor.register(FusionConfig, FusionProcessor, exist_ok=True)
    PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # it would warn of a second registration
    PIPELINE_REGISTRY.register_pipeline(
        TASK, FusionPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal"
    )


_register()
