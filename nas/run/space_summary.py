"""What a search space holds, and how much of it fits a memory budget, before anything is computed."""

import random
from dataclasses import dataclass

from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.memory.prediction import MemoryModel
from nas.run.tables import text_table
from nas.search.space import Architecture, SearchSpace
from nas.training.metrics import standard_error

_ALL = 5_000
_SAMPLED = 400


@dataclass(frozen=True)
class FittingShare:
    """How much of a space can be trained within a memory budget.

    Args:
        looked_at: Architectures that were predicted: all, or a sample drawn as the search draws them.
        whole: How many of them fit with whole batches.
        cut: How many more fit in micro-batches.
    """

    looked_at: int
    whole: int
    cut: int


def fitting_share(
    space: SearchSpace, memory: MemoryModel, budget_bytes: int, *, accumulates: bool, reporter: Reporter
) -> FittingShare:
    """Predict all architectures of a small space, or a sample of a large one.

    Args:
        space: Whose.
        memory: Predicts.
        budget_bytes: Of one device.
        accumulates: Whether batches may be cut into micro-batches.
        reporter: Shows how far it is.
    """
    if space.size <= _ALL:
        chosen = list(space)
    else:
        rng = random.Random(0)
        chosen = [space.sample(rng) for _ in range(_SAMPLED)]
    whole = cut = 0
    for done, architecture in enumerate(chosen, start=1):
        peak = memory.predict(architecture, budget_bytes=budget_bytes).peak_bytes
        if peak <= budget_bytes:
            whole += 1
        elif accumulates and memory.min_micro_batches(architecture, budget_bytes) is not None:
            cut += 1
        reporter.progress("predicted", done, len(chosen))
    return FittingShare(len(chosen), whole, cut)


def describe_space(config: Config, memory: MemoryModel, default: Architecture, reporter: Reporter) -> None:
    """Show a space: its size, its genes, its ends, and the share that fits.

    Args:
        config: Of the search; its memory budget counts.
        memory: Predicts.
        default: The family's, for these encoders.
        reporter: Shows it.
    """
    space, budget = config.space, config.budget
    size = f"{space.size:,}" if space.size < 10**9 else f"{space.size:.1e}"
    reporter.note(f"{config.name}: {size} architectures, {len(space.variables)} variables")
    reporter.note("")
    counts = {gene: sum(variable.gene == gene for variable in space.variables) for gene in space.choices}
    rows = [
        (gene, space.granularity.get(gene, "model"), str(counts[gene]), ", ".join(map(str, space.choices[gene])))
        for gene in space.choices
    ]
    reporter.note(text_table(("gene", "per", "variables", "choices"), rows))
    reporter.note("")
    chosen = {
        "smallest": space.smallest,
        f"{space.architecture_class.title}'s default": default,
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
    reporter.note(text_table(("", "architecture", "trainable parameters", "predicted peak"), ends))
    reporter.note("")
    share = fitting_share(
        space,
        memory,
        budget.memory_bytes,
        accumulates=budget.oversized == "accumulate",
        reporter=reporter,
    )
    reporter.note(f"memory budget {format_bytes(budget.memory_bytes)}: {_share_text(space, share)}")


def _share_text(space: SearchSpace, share: FittingShare) -> str:
    is_sample = share.looked_at < space.size
    part = share.whole / share.looked_at
    error = f" ± {standard_error(part, share.looked_at):.1%}" if is_sample else ""
    seen = f"{'a sample of ' if is_sample else ''}{share.looked_at:,}"
    cut = f", {share.cut / share.looked_at:.1%} more in micro-batches" if share.cut else ""
    return f"{part:.1%}{error} of {seen} fit{cut}"
