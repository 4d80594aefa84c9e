"""Neural architecture search for prompt-based multimodal fusion (PMF).

The names in `__all__` are the public Python API. They are imported when they are first used, so that `import nas` loads
neither torch, Optuna nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.common.errors import NasError
    from nas.common.progress import Reporter
    from nas.config.load import load_config
    from nas.config.reader_registry import register_reader
    from nas.models.encoders.registry import register_encoder
    from nas.run.api.run import Run, open_run
    from nas.run.api.search import resume, run_search
    from nas.run.callbacks import Callback
    from nas.search.costs import register_cost
    from nas.search.metric_registry import register_metric
    from nas.search.space.family_registry import register_family
    from nas.search.strategies.registry import register_strategy
    from nas.transformers_classes import FusionConfig, FusionForClassification, FusionForRetrieval, load

_TARGETS = {
    "Callback": "nas.run.callbacks:Callback",
    "FusionConfig": "nas.transformers_classes:FusionConfig",
    "FusionForClassification": "nas.transformers_classes:FusionForClassification",
    "FusionForRetrieval": "nas.transformers_classes:FusionForRetrieval",
    "NasError": "nas.common.errors:NasError",
    "Reporter": "nas.common.progress:Reporter",
    "Run": "nas.run.api.run:Run",
    "load": "nas.transformers_classes:load",
    "load_config": "nas.config.load:load_config",
    "open_run": "nas.run.api.run:open_run",
    "register_cost": "nas.search.costs:register_cost",
    "register_encoder": "nas.models.encoders.registry:register_encoder",
    "register_family": "nas.search.space.family_registry:register_family",
    "register_metric": "nas.search.metric_registry:register_metric",
    "register_reader": "nas.config.reader_registry:register_reader",
    "register_strategy": "nas.search.strategies.registry:register_strategy",
    "resume": "nas.run.api.search:resume",
    "run_search": "nas.run.api.search:run_search",
}

__all__ = [
    "Callback",
    "FusionConfig",
    "FusionForClassification",
    "FusionForRetrieval",
    "NasError",
    "Reporter",
    "Run",
    "load",
    "load_config",
    "open_run",
    "register_cost",
    "register_encoder",
    "register_family",
    "register_metric",
    "register_reader",
    "register_strategy",
    "resume",
    "run_search",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _TARGETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
