"""Genetic operators on the architectures of a search space.

Every operator draws from `rng` in the order of the space's variables; the order is part of a search's reproducibility.
"""

import random
from bisect import bisect_left
from collections.abc import Callable

from nas.search.space.architecture import Architecture
from nas.search.space.space import SearchSpace


def mutate(space: SearchSpace, architecture: Architecture, rng: random.Random, probability: float) -> Architecture:
    """Redraw each variable with the given probability; variables that become active are always drawn."""
    values = space.encode(architecture)
    return space.decode(
        {
            variable.name: rng.choice(variable.choices)
            if rng.random() < probability or variable.name not in values
            else values[variable.name]
            for variable in space.variables
        }
    )


def neighbour(space: SearchSpace, architecture: Architecture, rng: random.Random) -> Architecture:
    """Change one active variable to another value; variables that become active are drawn."""
    values = space.encode(architecture)
    changeable = [variable for variable in space.variables if variable.name in values and len(variable.choices) > 1]
    if not changeable:
        return architecture
    changed = rng.choice(changeable)
    others = [value for value in changed.choices if value != values[changed.name]]
    drawn = {variable.name: rng.choice(variable.choices) for variable in space.variables}
    return space.decode(drawn | values | {changed.name: rng.choice(others)})


def cross(space: SearchSpace, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
    """Take each variable from one of two parents, uniformly; from the only parent that has it otherwise."""
    parents = space.encode(first), space.encode(second)
    values = {}
    for variable in space.variables:
        inherited = [parent[variable.name] for parent in parents if variable.name in parent]
        # A variable of neither parent has no effect: the first layer is that of a parent.
        values[variable.name] = rng.choice(inherited or variable.choices)
    return space.decode(values)


def shrink(
    space: SearchSpace, architecture: Architecture, rng: random.Random, is_feasible: Callable[[Architecture], bool]
) -> Architecture:
    """Set as few variables as possible to their smallest value, in random order, until the architecture is feasible.

    Calls `is_feasible` only a few times (binary search), also in spaces where random draws are almost never feasible.

    Args:
        space: The search space.
        architecture: The architecture to shrink.
        rng: The generator of the order.
        is_feasible: Callback that returns whether an architecture is feasible.

    Returns:
        A feasible architecture, or the smallest of the space if none was feasible on the way.
    """
    smallest = {
        variable.name: space.smallest.first_layer if variable.is_layer else variable.choices[0]
        for variable in space.variables
    }
    values = space.encode(architecture)
    names = list(values)
    rng.shuffle(names)

    def shrunken(count: int) -> Architecture:
        # A smallest value may give another variable a meaning, which then has its smallest value.
        return space.decode(smallest | values | {name: smallest[name] for name in names[:count]})

    # Exact: every gene only adds to the bounded costs, so an architecture smaller than a feasible one is feasible.
    return shrunken(bisect_left(range(len(names)), True, key=lambda count: is_feasible(shrunken(count))))
