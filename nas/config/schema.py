"""The values of a search file, as frozen dataclasses."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.config.readers import READERS
from nas.search.costs import COSTS, CostModel
from nas.search.metrics import METRICS
from nas.search.objectives import Constraint, Objectives
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.base import EvolutionSettings
from nas.search.trial import Stage

SAMPLINGS = ("uniform", "sandwich", "balanced")
COLUMNS = ("image", "text", "label", "split")
FEATURE_DTYPES = ("float16", "float32")
WHEN_TOO_LARGE = ("reject", "accumulate")
LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class ColumnsConfig:
    """Names of the columns of a manifest; without one of splits, `held_out` says which samples are for what."""

    image: str
    text: str
    label: str
    split: str | None


@dataclass(frozen=True)
class HeldOutConfig:
    """What is taken from train for splits that a data set does not have: a share below 1, or so many images."""

    validation: float
    test: float
    seed: int


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from.

    `reader` is the form in which they are distributed. `manifest` is a CSV, TSV, JSON Lines or Parquet file, whose
    image paths lead into `images`, a folder or a ZIP; all others are a `folder`. `columns` belong to manifest,
    image_folder and datasets; there, with `labels: several`, a sample may have any number of them, in a list or parted
    by `label_separator`. `held_out` says what is taken from train for splits that are not there. A sample in two
    splits, told by its text and its image's path or content, is refused unless `allow_duplicates`. `texts` are those of
    food101: titles or pages. Longer texts are cut to `max_text_tokens`; with null to what the text encoder can read.
    """

    reader: str
    manifest: str | None
    folder: str | None
    images: str | None
    columns: ColumnsConfig
    labels: str
    label_separator: str
    held_out: HeldOutConfig
    texts: str
    max_text_tokens: int | None
    skip_unreadable_images: bool
    allow_duplicates: bool

    @property
    def location(self) -> str:
        """The file or folder, for messages."""
        return self.manifest or self.folder or ""

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels."""
        return self.labels == "several" or (self.reader in READERS and READERS[self.reader].has_several_labels)

    def form(self) -> dict[str, Any]:
        """Everything but where it lies, as a search file has it: so a later evaluation reads it in the same way."""
        kept = ("reader", "labels", "label_separator", "held_out", "columns", "texts", "skip_unreadable_images")
        return {name: value for name, value in dataclasses.asdict(self).items() if name in kept}


@dataclass(frozen=True)
class EncodersConfig:
    """Checkpoints of the frozen encoders: a local folder, `package:NAME/FOLDER` or a hub name."""

    image: str
    text: str


@dataclass(frozen=True)
class FeaturesConfig:
    """How the frozen encoders' base features are kept on disk.

    `disk_bytes` decides what is stored for every fusion layer and what is computed again on reading; `attention` lets
    that be what data rows attend to among themselves, too, which takes twice the disk and saves time in every step.
    `views` is how many views of every training image there are: the image itself and augmented ones.
    """

    dtype: str
    disk_bytes: int
    views: int
    attention: bool


@dataclass(frozen=True)
class LearningRatesConfig:
    """Peak learning rate of each group of trained tensors; `encoders` counts where a family trains their weights."""

    prompts: float
    mappings: float
    classifiers: float
    encoders: float

    @classmethod
    def of_all(cls, rate: float) -> "LearningRatesConfig":
        """One for every group."""
        return cls(rate, rate, rate, rate)

    def scaled(self, factor: float) -> "LearningRatesConfig":
        """Each times a factor."""
        return LearningRatesConfig(*(rate * factor for rate in dataclasses.astuple(self)))


@dataclass(frozen=True)
class RecipeConfig:
    """How one model is trained in full.

    `momentum` is SGD's, or AdamW's first beta. `warmup_fraction` is the part of all steps in which the learning rate
    rises linearly; `clip_norm` bounds the gradient's global norm (null: no bound); `depth_scaling` divides the learning
    rate of prompts and mappings by n ** depth_scaling for n fusing layers: those above amplify what an early one does.
    `label_smoothing` is the part of the target that is spread over all classes.
    """

    optimizer: str
    learning_rates: LearningRatesConfig
    depth_scaling: float
    weight_decay: float
    momentum: float
    schedule: str
    warmup_fraction: float
    clip_norm: float | None
    batch_size: int
    epochs: int
    class_weights: str
    label_smoothing: float


@dataclass(frozen=True)
class SupernetConfig:
    """How long the weight-sharing supernet is trained, and how often it is saved.

    In every step `architectures_per_step` sampled architectures are trained, each on a batch of its own, and their
    gradients are summed; workers share them. `sampling` says which: every value as likely as any other (`uniform`), the
    largest, the smallest and random ones between (`sandwich`), or so that rarely used weights get their share
    (`balanced`). With `sandwich`, `distillation` is the part of the loss of all others that compares with the largest.
    """

    steps: int
    architectures_per_step: int
    checkpoint_steps: int
    sampling: str
    distillation: float


@dataclass(frozen=True)
class SearchConfig:
    """What is maximised, by which strategy, and how promising candidates are promoted.

    `objective` is the metric. Beside it `costs` may be minimised, which gives a front instead of one answer; bounds on
    either are `constraints`. Latency is that of `latency_batch` samples. Before they are trained in full, candidates
    are compared by that metric, or, with `proxy_metric: cross_entropy`, by how little of it they have, which is less
    coarse.

    Every candidate is scored with inherited weights, `eval_batch` of them at a time, which share what is equal; of
    each `round_size` scored ones the best `promotion_fraction` is trained for `short_training_steps` with the recipe's
    learning
    rates times `short_training_lr_scale`, since larger ones undo in a few steps what the supernet has learned in many;
    the
    best `finalists` of those are trained in full from fresh weights. The best of these, and the family's default, are
    trained with `rerun_seeds` further seeds, on top of the budget, so that it is known how far to trust the
    answer: the score that it was chosen by is high by luck as well. The architectures in `initial_architectures` are
    scored first, after that default, the smallest and the largest that fits.
    """

    strategy: str
    objective: str
    proxy_metric: str
    costs: tuple[str, ...]
    constraints: tuple[Constraint, ...]
    latency_batch: int
    eval_batch: int
    round_size: int
    promotion_fraction: float
    short_training_steps: int
    short_training_lr_scale: float
    finalists: int
    rerun_seeds: int
    initial_architectures: tuple[Architecture, ...]
    evolution: EvolutionSettings

    def score_name(self, stage: Stage) -> str:
        """Which metric is a candidate's score at a stage; of cross-entropy less is better, so it is negated."""
        return self.objective if stage == "full" or self.proxy_metric == "objective" else self.proxy_metric

    def score_of(self, stage: Stage, metrics: Mapping[str, float]) -> float:
        """A candidate's score at a stage; higher is better."""
        name = self.score_name(stage)
        return METRICS[name].score(metrics[name])

    @property
    def wants_latency(self) -> bool:
        """Whether latency is measured, because a measured cost is an objective or bounded."""
        bounded = (constraint.quantity for constraint in self.constraints)
        return any(COSTS[name].is_measured for name in (*self.costs, *bounded) if name in COSTS)


@dataclass(frozen=True)
class CompareConfig:
    """How families are compared: each with the one of these peak learning rates that is best on validation.

    They are tried from the middle on, towards where it gets better.
    """

    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class BudgetConfig:
    """What a search may use; `None` means no bound of that kind.

    `memory_bytes` is that of each device: the graphics memory of a GPU, or the private memory of all workers of a
    machine together. `oversized` says what becomes of a candidate whose batch does not fit: `reject` it, or
    `accumulate` its gradients over the largest micro-batches that do. `supernet_fraction` and `finalists_fraction` are
    the parts of the time kept for these phases.
    """

    time_seconds: float | None
    trials: int | None
    memory_bytes: int
    oversized: str
    supernet_fraction: float
    finalists_fraction: float


@dataclass(frozen=True)
class Config:
    """A whole search, as its file says it.

    With `deterministic`, trials and their values are the same for any number of workers and across kill and resume:
    proposals are made in rounds, told in their order, by workers of `threads` threads each, and nothing measured plays
    a part. Without it a worker has as many threads as there are cores for it.
    """

    name: str
    data: DataConfig
    encoders: EncodersConfig
    features: FeaturesConfig
    space: SearchSpace
    recipe: RecipeConfig
    supernet: SupernetConfig
    search: SearchConfig
    budget: BudgetConfig
    compare: CompareConfig
    seed: int
    deterministic: bool
    threads: int


def objectives_of(search: SearchConfig, model: CostModel | None = None) -> Objectives:
    """What a search wants; `model` knows the costs, where there are any."""
    return Objectives(search.objective, search.costs, search.constraints, model)
