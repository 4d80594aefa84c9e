"""Describe a search space, and the part of it that fits a memory budget, before anything is computed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.memory.prediction import MemoryModel
from nas.run.tables import text_table
from nas.search.space import Architecture, SearchSpace
from nas.training.metrics import standard_error

_MAX_ENUMERATED = 5_000
_SAMPLE_SIZE = 400
_MAX_TRACED = 100
"""The number of architectures whose memory is traced: each takes up to a second, interpolation under a millisecond."""
_MAX_LISTED = 24


@dataclass(frozen=True)
class FittingShare:
    """The part of a search space that can be trained within a memory budget.

    Args:
        predicted: The number of architectures that were predicted: all, or a sample as the search draws it.
        whole: The number of those that fit in whole batches.
        in_micro_batches: The number of those that fit in micro-batches only.
    """

    predicted: int
    whole: int
    in_micro_batches: int


def fitting_share(
    space: SearchSpace, memory: MemoryModel, budget_bytes: int, *, accumulates: bool, reporter: Reporter
) -> FittingShare:
    """Predict all architectures of a small space, or a sample of a large one; a small sample where each takes long.

    Args:
        space: The search space.
        memory: The memory predictions.
        budget_bytes: The memory budget of one device.
        accumulates: Whether batches may be cut into micro-batches.
        reporter: The receiver of progress.
    """
    is_traced = bool(space.granularity) or space.smallest.affine_memory() is None
    if space.size <= (_MAX_TRACED if is_traced else _MAX_ENUMERATED):
        chosen = list(space)
    else:
        rng = random.Random(0)
        chosen = [space.sample(rng) for _ in range(_MAX_TRACED if is_traced else _SAMPLE_SIZE)]
    whole = cut = done = 0

    def fits(architecture: Architecture) -> bool:
        return memory.predict(architecture, budget_bytes=budget_bytes).peak_bytes <= budget_bytes

    def fits_cut(architecture: Architecture) -> bool:
        return accumulates and memory.fits_in_micro_batches(architecture, budget_bytes)

    for group in _groups(chosen):
        # No gene of a set makes a storage smaller, so that the ends of the set decide for most sets as a whole.
        smallest, largest = _ends(group)
        if fits(largest):
            whole += len(group)
        elif fits(smallest) or fits_cut(smallest):
            fitting = list(map(fits, group))
            whole += sum(fitting)
            cut += sum(fits_cut(entry) for entry, is_whole in zip(group, fitting, strict=True) if not is_whole)
        done += len(group)
        reporter.progress("memory predictions", done, len(chosen))
    return FittingShare(len(chosen), whole, cut)


def _groups(architectures: Sequence[Architecture]) -> list[list[Architecture]]:
    """Return the architectures by the set that they belong to (`Architecture.affine_memory`)."""
    groups: dict[Architecture, list[Architecture]] = {}
    for architecture in architectures:
        affine = architecture.affine_memory()
        groups.setdefault(architecture if affine is None else affine.smallest, []).append(architecture)
    return list(groups.values())


def _ends(group: Sequence[Architecture]) -> tuple[Architecture, Architecture]:
    """Return the architectures with the smallest and with the largest values of all genes that vary in a set."""
    affine = group[0].affine_memory()
    if affine is None:
        return group[0], group[0]
    values = {gene: [getattr(architecture, gene) for architecture in group] for gene in affine.steps}
    dataclass_instance: Any = group[0]  # every architecture is one
    smallest, largest = (
        replace(dataclass_instance, **{gene: choose(found) for gene, found in values.items()}) for choose in (min, max)
    )
    return smallest, largest


def describe_space(config: Config, memory: MemoryModel, default: Architecture, reporter: Reporter) -> None:
    """Show a search space: its size, its genes, its smallest and largest architecture, and the part that fits.

    Nothing is shown before everything is computed.

    Args:
        config: The configuration of the search.
        memory: The memory predictions.
        default: The family's default architecture.
        reporter: The receiver of the description.
    """
    space, budget = config.space, config.budget
    chosen = {
        "smallest": space.smallest,
        f"{space.architecture_class.title} default": default,
        "largest": space.largest,
    }
    ends = [
        (
            name,
            f"{architecture}{'' if architecture in space else ' (not in the space)'}",
            f"{memory.parameter_count(architecture):,}",
            format_bytes(memory.predict(architecture).peak_bytes),
        )
        for name, architecture in chosen.items()
    ]
    searched = _searched(config)
    counts = {gene: sum(variable.gene == gene for variable in searched.variables) for gene in space.choices}
    rows = [
        (
            gene.name,
            space.granularity.get(gene.name, "model"),
            str(counts[gene.name]),
            _choices_text([gene.format(value) for value in space.choices[gene.name]]),
        )
        for gene in space.architecture_class.genes
    ]
    share = fitting_share(
        searched,
        memory,
        budget.memory_bytes,
        accumulates=budget.oversized == "accumulate",
        reporter=reporter,
    )
    reporter.note(f"{config.name}: {_size_text(searched.size)} architectures, {len(searched.variables)} variables")
    if searched != space:
        reporter.note("The linear classifier chooses the readouts first; the part that fits is that of the dearer ones")
    reporter.note("")
    reporter.note(text_table(("gene", "per", "variables", "choices"), rows))
    reporter.note("")
    reporter.note(text_table(("", "architecture", "trainable parameters", "predicted peak"), ends))
    reporter.note("")
    reporter.note(f"Memory budget {format_bytes(budget.memory_bytes)}: {_share_text(searched, share)}")


def _searched(config: Config) -> SearchSpace:
    """Return the part of the space that is searched, with the dearest readouts where the linear classifier chooses."""
    space = config.space
    if config.search.readouts == "searched":
        return space
    return space.narrowed(
        {gene.name: space.choices[gene.name][-1] for gene in space.architecture_class.genes if gene.names}
    )


def _choices_text(choices: Sequence[str]) -> str:
    """Return choices as a list; of many only the first ones and the last."""
    if len(choices) <= _MAX_LISTED:
        return ", ".join(choices)
    first = ", ".join(choices[: _MAX_LISTED // 2])
    return f"{first}, … {choices[-1]} ({len(choices):,} values)"


def _size_text(size: int) -> str:
    return f"{size:,}" if size < 10**9 else f"{Decimal(size):.1e}"


def _share_text(space: SearchSpace, share: FittingShare) -> str:
    is_sample = share.predicted < space.size
    part = share.whole / share.predicted
    error = f" (standard error {standard_error(part, share.predicted):.1%})" if is_sample else ""
    seen = f"{'a sample of ' if is_sample else ''}{share.predicted:,}"
    cut = f", {share.in_micro_batches / share.predicted:.1%} more in micro-batches" if share.in_micro_batches else ""
    return f"{part:.1%}{error} of {seen} architectures fit{cut}"
