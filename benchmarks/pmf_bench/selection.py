"""Which architectures of a space are trained for the table, and with which seeds."""

import itertools
import random
from collections.abc import Callable

from nas.models.fusion.pmf.architecture import GENES
from nas.run.prepare import SearchContext
from nas.search.space import Architecture, SearchSpace

ARCHITECTURES, REPEATED = 160, 40
SEEDS, MORE_SEEDS = (0, 1), (2, 3)
AUTO_ARCHITECTURES = 100

Training = tuple[Architecture, int]
"""An architecture and the seed of its training."""


def trainings(space: SearchSpace, prepared: SearchContext) -> list[Training]:
    """Return the trainings of the table in their order."""
    chosen = architectures(space, prepared.default, prepared.memory.parameter_count)
    random.Random(0).shuffle(chosen)  # so that an unfinished table is a fair sample
    pairs = [(architecture, seed) for architecture in chosen for seed in SEEDS]
    return pairs + [(architecture, seed) for architecture in chosen[:REPEATED] for seed in MORE_SEEDS]


def all_seeds(space: SearchSpace, prepared: SearchContext) -> list[Training]:
    """Return the trainings of the table with the automatic recipe: those of an architecture one after the other."""
    chosen = architectures(space, prepared.default, prepared.memory.parameter_count, AUTO_ARCHITECTURES)
    random.Random(0).shuffle(chosen)  # so that an unfinished table is a fair sample
    return [(architecture, seed) for architecture in chosen for seed in (*SEEDS, *MORE_SEEDS)]


def architectures(
    space: SearchSpace, default: Architecture, size: Callable[[Architecture], int], count: int = ARCHITECTURES
) -> list[Architecture]:
    """Return the corners of a space, the default, and others spread evenly over L_f and, for each L_f, over their size.

    Args:
        space: The search space.
        default: PMF's default architecture.
        size: Callback that returns the size of an architecture.
        count: The total number of architectures.
    """
    rng = random.Random(0)
    ends = {gene: {space.choices[gene][0], space.choices[gene][-1]} for gene in GENES}
    chosen = [entry for entry in space if all(getattr(entry, gene) in ends[gene] for gene in GENES)]
    chosen.append(default)
    layers = space.choices["fusion_layer"]
    for place, layer in enumerate(layers):
        share = count // len(layers) + (place < count % len(layers))
        missing = share - sum(entry.first_layer == layer for entry in chosen)
        rest = sorted((entry for entry in space if entry.first_layer == layer and entry not in chosen), key=size)
        cuts = [round(index * len(rest) / missing) for index in range(missing + 1)]
        chosen += [rng.choice(rest[start:stop]) for start, stop in itertools.pairwise(cuts)]
    return chosen
