"""Keys of the models that jobs train or score: candidates of a search, and trainings that are compared with them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas.common.boundary import shown


@dataclass(frozen=True)
class CandidateKey:
    """Key of a candidate of the search.

    Args:
        trial: The number of the candidate in the study, from 0.
    """

    trial: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"trial_{self.trial}"


@dataclass(frozen=True)
class DefaultKey:
    """Key of the family's default architecture, trained completely for comparison with the best candidate."""

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return "default"


@dataclass(frozen=True)
class LinearKey:
    """Key of the linear classifier on the frozen encoders, which every search has to beat."""

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return "linear"


@dataclass(frozen=True)
class BilinearKey:
    """Key of the bilinear classifier on the frozen encoders."""

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return "bilinear"


@dataclass(frozen=True)
class RerunKey:
    """Key of one more full training of an architecture, with a further seed.

    Args:
        origin: The key of the first training of the architecture.
        number: The number of the rerun, from 1; the first training is number 0.
    """

    origin: "SeededKey"
    number: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"rerun_{self.origin.name}_{self.number}"


@dataclass(frozen=True)
class VariantKey:
    """Key of one full training of the default with other alternatives, which an ensemble needs and nothing compares.

    Args:
        number: The number of the variant, from 0.
    """

    number: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"variant_{self.number}"


@dataclass(frozen=True)
class ComparisonKey:
    """Key of one full training in a comparison of families.

    Args:
        rate: The index of the learning rate in the grid.
        seed: The number of the seed, from 0.
    """

    rate: int
    seed: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"rate_{self.rate}_seed_{self.seed}"


@dataclass(frozen=True)
class AblationKey:
    """Key of one full training of an ablation, in which architectures differ in one gene.

    Args:
        digest: The digest of the architecture, see `nas.run.ablation.rows.digest_of`.
        seed: The number of the seed, from 0.
    """

    digest: str
    seed: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"ablation_{self.digest}_seed_{self.seed}"


@dataclass(frozen=True)
class RecipeKey:
    """Key of one full training with which a setting of the recipe is tried.

    Args:
        setting: The index of the setting in `nas.search.recipe_tuning.SETTINGS`.
        seed: The number of the seed, from 0.
    """

    setting: int
    seed: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"recipe_{self.setting}_seed_{self.seed}"


@dataclass(frozen=True)
class SpeedKey:
    """Key of a training of a few steps that measures the speed of a worker; nothing of it is kept.

    Args:
        worker: The number of the worker, from 0.
    """

    worker: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"speed_{self.worker}"


@dataclass(frozen=True)
class TeacherKey:
    """Key of the job that computes what an ensemble teaches; nothing is trained.

    Args:
        digest: The digest of the ensemble, see `nas.search.distillation.teacher_digest`.
    """

    digest: str

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"teacher_{self.digest}"


@dataclass(frozen=True)
class DistilledKey:
    """Key of one training of a model that learns from an ensemble.

    Args:
        teacher: The digest of the ensemble.
        number: The number of the training, from 0.
    """

    teacher: str
    number: int

    @property
    def name(self) -> str:
        """The key as a part of a file name."""
        return f"distilled_{self.teacher}_{self.number}"


SeededKey = CandidateKey | DefaultKey
"""Key of the first training of a model that further seeds can train again."""

ModelKey = (
    CandidateKey
    | DefaultKey
    | LinearKey
    | BilinearKey
    | RerunKey
    | VariantKey
    | ComparisonKey
    | AblationKey
    | RecipeKey
    | SpeedKey
    | TeacherKey
    | DistilledKey
)
"""Key of a model: an architecture together with the weights that a job gives it."""

_SINGLE_KEYS: Mapping[str, ModelKey] = {key.name: key for key in (DefaultKey(), LinearKey(), BilinearKey())}

_NUMBERED_KEYS: Sequence[tuple[re.Pattern[str], Callable[..., ModelKey]]] = (
    (
        re.compile(r"rerun_(?:default|trial_(\d+))_(\d+)"),
        lambda trial, number: RerunKey(DefaultKey() if trial is None else CandidateKey(int(trial)), int(number)),
    ),
    (re.compile(r"variant_(\d+)"), lambda number: VariantKey(int(number))),
    (re.compile(r"rate_(\d+)_seed_(\d+)"), lambda rate, seed: ComparisonKey(int(rate), int(seed))),
    (re.compile(r"ablation_([0-9a-f]{12})_seed_(\d+)"), lambda digest, seed: AblationKey(digest, int(seed))),
    (re.compile(r"recipe_(\d+)_seed_(\d+)"), lambda setting, seed: RecipeKey(int(setting), int(seed))),
    (re.compile(r"distilled_([0-9a-f]{8})_(\d+)"), lambda teacher, number: DistilledKey(teacher, int(number))),
)
"""The names of keys with numbers, and how a key is made of the groups in its name."""


def key_to_json(key: ModelKey) -> int | str:
    """Return a key as it is stored in JSON: the number of a candidate, the name of anything else."""
    return key.trial if isinstance(key, CandidateKey) else key.name


def key_from_json(value: int | str) -> ModelKey:
    """Return the key that `key_to_json` has stored.

    Raises:
        ValueError: If the value is not a key.
    """
    if type(value) is int and 0 <= value < 2**63:
        return CandidateKey(value)
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)}: not the key of a model; expected a number from 0 or a name")
    if value in _SINGLE_KEYS:
        return _SINGLE_KEYS[value]
    for pattern, build in _NUMBERED_KEYS:
        if found := pattern.fullmatch(value):
            return build(*found.groups())
    raise ValueError(
        f"{shown(value)}: not the key of a model; expected a number, default, linear, bilinear, rerun_…, "
        "variant_…, rate_…_seed_…, ablation_…_seed_…, recipe_…_seed_… or distilled_…"
    )
