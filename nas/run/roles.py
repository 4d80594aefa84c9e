"""The models of a run by their roles: the best architecture of the search, and the simpler ones that need no search."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard, get_args

from nas.search.keys import BilinearKey, DefaultKey, LinearKey

if TYPE_CHECKING:
    from nas.search.objectives import Pick

BEST = "best"
"""The role of the best architecture of the search."""

DISTILLED = "distilled"
"""The role of the model that is distilled from the ensemble."""

SolvedRole = Literal["linear", "bilinear"]
"""The roles of the simpler models that are solved to an optimum, so that seeds make no difference."""

ExportRule: TypeAlias = "Pick | SolvedRole | Literal['answer', 'distilled']"
"""What to export: a candidate by a rule, a simpler model that is solved, the distilled model, or the answer."""


@dataclass(frozen=True)
class SimpleModel:
    """A model that needs no search.

    Args:
        key: The key of its first training. Its name is the role of the model: the name of its folder, of the file of
            its result, and of its row in the final report.
        title: The name of the model in sentences; `{family}` stands for the title of the fusion family.
        row: Its name in the table of the final report.
    """

    key: LinearKey | BilinearKey | DefaultKey
    title: str
    row: str

    @property
    def role(self) -> str:
        """The role of the model."""
        return self.key.name

    @property
    def is_solved(self) -> bool:
        """Whether the model is solved to an optimum."""
        return self.role in get_args(SolvedRole)


SIMPLE_MODELS = (
    SimpleModel(LinearKey(), "linear classifier", "linear"),
    SimpleModel(BilinearKey(), "bilinear classifier", "bilinear"),
    SimpleModel(DefaultKey(), "{family} default", "{family} default"),
)
"""All simpler models, the simplest first: where nothing is better beyond chance, the first of equals is the answer."""

LINEAR, BILINEAR, DEFAULT = LinearKey().name, BilinearKey().name, DefaultKey().name


def picks_candidate(rule: ExportRule) -> "TypeGuard[Pick]":
    """Return whether a rule picks a candidate, and names neither another model nor the answer.

    Args:
        rule: The rule.
    """
    return rule not in (*get_args(SolvedRole), DISTILLED, "answer")


def simple_titles(family: str) -> dict[str, str]:
    """Return the names of the simpler models in sentences, by their role, the simplest first.

    Args:
        family: The title of the fusion family.
    """
    return {model.role: model.title.format(family=family) for model in SIMPLE_MODELS}
