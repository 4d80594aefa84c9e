"""Choose the readouts of a search by the linear classifier: what it reads best is what other models read best, too.

The classifiers of a fusion model read the same tokens, and start from the linear problem where the recipe says so. With
each readout left open, the search would spend the same time on several times as many architectures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nas.common.progress import Reporter
from nas.config.schema import Config
from nas.search.space import Architecture, SearchSpace


@dataclass(frozen=True)
class ChosenReadouts:
    """The readouts of a search that are not searched.

    Args:
        values: The value of each gene that is a readout.
    """

    values: Mapping[str, int]

    @classmethod
    def by_linear(cls, config: Config, linear: Architecture | None) -> "ChosenReadouts":
        """Return the readouts of the linear classifier that the space allows; none if they are searched.

        Args:
            config: The configuration of the search.
            linear: The linear classifier that was solved; None leaves the first readout of each modality.
        """
        if config.search.readouts == "searched":
            return cls({})
        choices = config.space.choices
        names = [gene.name for gene in config.space.architecture_class.genes if gene.names]
        wanted = {name: choices[name][0] if linear is None else getattr(linear, name, None) for name in names}
        return cls({name: value for name, value in wanted.items() if value in choices[name]})

    def config(self, config: Config) -> Config:
        """Return the configuration whose space has these readouts only."""
        return config.replace(space=config.space.narrowed(self.values))

    def architecture(self, architecture: Architecture) -> Architecture:
        """Return an architecture with these readouts."""
        dataclass_instance: Any = architecture  # every architecture is one
        replaced: Architecture = replace(dataclass_instance, **self.values)
        return replaced

    def variant(self, default: Architecture, space: SearchSpace) -> Architecture | None:
        """Return the default with other readouts; None if there are no others.

        Trainings of one architecture make similar errors, whatever their seed. What reads other tokens errs elsewhere,
        so that an ensemble of both is better, although the variant alone is worse.

        Args:
            default: The default, with the chosen readouts.
            space: The whole space of the search file.
        """
        others = {
            name: next((other for other in space.choices[name] if other != value), value)
            for name, value in self.values.items()
        }
        return None if others == self.values else ChosenReadouts(others).architecture(default)

    def report(self, config: Config, reporter: Reporter) -> None:
        """Say which readouts were chosen, where the space has a choice.

        Args:
            config: The configuration of the search, with its whole space.
            reporter: The receiver of the line.
        """
        genes = [gene for gene in config.space.architecture_class.genes if gene.name in self.values]
        open_genes = [gene for gene in genes if len(config.space.choices[gene.name]) > 1]
        if open_genes:
            chosen = ", ".join(
                f"{gene.name.replace('_', ' ')} {gene.format(self.values[gene.name])}" for gene in open_genes
            )
            reporter.note(
                f"The search keeps {chosen}, which the linear classifier prefers; to search other readouts as well, "
                "set search.readouts: searched"
            )
