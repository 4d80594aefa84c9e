"""The figures about a search as a whole: history, fronts, importance of genes, agreement of stages, time, memory.

Each function returns a figure of plotly as plain values, so that a running search neither imports plotly nor waits for
it; `as_plotly` makes an object of it for notebooks. A function returns None where a run has nothing to show.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from nas.common.units import format_bytes, format_seconds
from nas.run.html_report.data import RunData
from nas.run.html_report.style import (
    ACCENT,
    MEBIBYTE,
    QUIET,
    SIMPLE_COLORS,
    STAGE_COLORS,
    Figure,
    Trace,
    axis,
    figure,
    line,
    plain,
    points,
    rounded,
)
from nas.run.progress_lines import PHASE_TITLES, STAGE_NOUNS, STAGE_VERBS, architecture_text, metric_title, model_name
from nas.run.reliability import Agreement
from nas.run.roles import DEFAULT, simple_titles
from nas.search.pareto import fronts
from nas.search.trial import STAGES, Result
from nas.storage.importance import gene_importance

if TYPE_CHECKING:
    import plotly.graph_objects

Cost = Literal["memory", "parameters", "latency"]
COSTS: tuple[Cost, ...] = ("memory", "parameters", "latency")
COST_TITLES = {
    "memory": "predicted peak memory (MiB)",
    "parameters": "trainable parameters",
    "latency": "latency (ms)",
}

_MIN_TRIALS = 4
"""Fewer candidates tell nothing about genes."""


def as_plotly(found: Figure) -> "plotly.graph_objects.Figure":
    """Return a figure as an object of plotly, which notebooks display.

    Args:
        found: A figure of this module.
    """
    import plotly.graph_objects  # noqa: PLC0415 - only notebooks need it

    return plotly.graph_objects.Figure(found)


def history(data: RunData) -> Figure | None:
    """Return the scores of all candidates in the order of their proposals, by stage, and those of the simpler models.

    Args:
        data: The content of the run directory.
    """
    traces: list[Trace] = []
    last = 0
    for stage in STAGES:
        results = _with_value(data, data.results[stage])
        if not results:
            continue
        values = [rounded(data.value(result)) for result in results]
        trials = [result.trial for result in results]
        last = max(last, trials[-1])
        traces.append(points(stage, trials, values, [_hover(data, result) for result in results]))
        if stage == "one_shot":
            best = list(itertools.accumulate(values, max if data.sign > 0 else min))
            shape = {"line": {"shape": "hv", "dash": "dot"}, "hoverinfo": "skip"}
            traces.append(line("best screened so far", trials, best, STAGE_COLORS[stage], **shape))
    if not traces:
        return None
    titles = simple_titles(data.config.space.architecture_class.title)
    for role, result in data.simple.items():
        value = rounded(data.value(result))
        traces.append(
            line(plain(titles[role]), [-0.5, last + 0.5], [value, value], SIMPLE_COLORS[role], line={"dash": "dash"})
            | {"hovertemplate": f"{plain(titles[role])}: %{{y:.3f}}<extra></extra>"}
        )
    x = axis("candidate, in the order of proposals", range=[-0.02 * last - 0.5, 1.02 * last + 0.5])
    return figure(traces, x=x, y=axis(f"validation {metric_title(data.metric)}"), height=420)


def cost_of(data: RunData, result: Result, cost: Cost) -> float | None:
    """Return a cost of a model in the unit of its axis; None if it is not known.

    Args:
        data: The content of the run directory.
        result: A result of the model.
        cost: The cost.
    """
    if cost == "memory":
        return result.predicted_peak_bytes / MEBIBYTE
    if cost == "parameters":
        return data.parameters_of(result)
    return None if result.latency_seconds is None else 1000 * result.latency_seconds


def front(data: RunData, cost: Cost = "memory") -> Figure | None:
    """Return the metric of all candidates over a cost, and the front: those that nothing beats in both.

    Args:
        data: The content of the run directory.
        cost: The cost.
    """
    traces: list[Trace] = []
    for stage in STAGES:
        known = [result for result in _with_value(data, data.results[stage]) if cost_of(data, result, cost) is not None]
        if known:
            x, y = _coordinates(data, known, cost)
            traces.append(points(stage, x, y, [_hover(data, result, cost) for result in known]))
    if not traces:
        return None
    members = front_members(data, cost)
    x, y = _coordinates(data, members, cost)
    verb = STAGE_VERBS[members[0].stage]
    shape = {"line": {"shape": "hv" if data.sign > 0 else "vh", "width": 2}, "hoverinfo": "skip"}
    traces.append(line(f"front of those {verb}", x, y, STAGE_COLORS[members[0].stage], **shape))
    titles = simple_titles(data.config.space.architecture_class.title)
    for role, result in data.simple.items():
        value = cost_of(data, result, cost)
        # A solved classifier needs no worker: its memory is not that of a training, and far to the left of all others.
        is_comparable = cost != "memory" or role == DEFAULT
        if value is not None and is_comparable and not math.isnan(data.value(result)):
            marker = {"color": SIMPLE_COLORS[role], "symbol": "x", "size": 10}
            at = _coordinates(data, [result], cost)
            hover = [_hover(data, result, cost)]
            traces.append(points("full", *at, hover, marker=marker, name=plain(titles[role])))
    y_axis = axis(f"validation {metric_title(data.metric)}")
    return figure(traces, x=axis(COST_TITLES[cost]), y=y_axis, height=380)


def front_members(data: RunData, cost: Cost) -> list[Result]:
    """Return the candidates of the most expensive stage that nothing beats in metric and cost, the cheapest first.

    Args:
        data: The content of the run directory.
        cost: The cost.
    """
    for stage in reversed(STAGES):
        found = [
            (value, result)
            for result in _with_value(data, data.results[stage])
            if (value := cost_of(data, result, cost)) is not None
        ]
        if found:
            scored = [(data.sign * data.value(result), -value) for value, result in found]
            return [found[index][1] for index in sorted(fronts(scored)[0], key=lambda index: found[index][0])]
    return []


def _coordinates(data: RunData, results: Sequence[Result], cost: Cost) -> tuple[list[float], list[float]]:
    known = [(cost_of(data, result, cost), data.value(result)) for result in results]
    return [rounded(x) for x, _ in known if x is not None], [rounded(y) for x, y in known if x is not None]


def importances(data: RunData) -> dict[str, float]:
    """Return the importance of each gene that has a choice, the largest first; empty with few candidates.

    Args:
        data: The content of the run directory.
    """
    results = _with_value(data, data.results["one_shot"])
    if len(results) < _MIN_TRIALS:
        return {}
    values = [data.sign * data.value(result) for result in results]
    return gene_importance([result.architecture for result in results], values)


def importance(data: RunData, known: Mapping[str, float] | None = None) -> Figure | None:
    """Return the importance of each gene for the metric after screening, as Optuna computes it.

    Args:
        data: The content of the run directory.
        known: The importance of each gene where it was computed before; see `importances`.
    """
    found = importances(data) if known is None else known
    if not found:
        return None
    shares = list(found.items())[::-1]
    names, values = [gene_title(name) for name, _ in shares], [rounded(share) for _, share in shares]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": names,
        "marker": {"color": ACCENT},
        "texttemplate": "%{x:.0%}",
        "textposition": "auto",
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
        "showlegend": False,
    }
    x = axis("share of the importance", tickformat=".0%", rangemode="tozero")
    return figure([bars], x=x, y=axis(), height=110 + 34 * len(names))


def gene_effects(data: RunData) -> dict[str, Figure]:
    """Return, for each gene with several values, how the metric after screening is spread for each of its values.

    Args:
        data: The content of the run directory.
    """
    results = _with_value(data, data.results["one_shot"])
    found: dict[str, Figure] = {}
    if len(results) < _MIN_TRIALS:
        return found
    for gene in data.config.space.architecture_class.genes:
        texts = [gene.format(getattr(result.architecture, gene.name)) for result in results]
        kinds = sorted(set(texts), key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text))
        if not 1 < len(kinds) <= 12:
            continue
        box = {
            "type": "box",
            "x": [plain(text) for text in texts],
            "y": [rounded(data.value(result)) for result in results],
            "marker": {"color": ACCENT, "size": 4, "opacity": 0.5},
            "line": {"width": 1.5},
            "boxpoints": "all" if len(results) <= 200 else "outliers",
            "jitter": 0.4,
            "pointpos": 0,
            "showlegend": False,
            "hoverinfo": "y",
        }
        x = axis(gene_title(gene.name), type="category", categoryorder="array", categoryarray=list(map(plain, kinds)))
        found[gene.name] = figure([box], x=x, y=axis(metric_title(data.metric)), height=260)
    return found


def gene_title(name: str) -> str:
    """Return the name of a gene in plain words."""
    return name.replace("_", " ")


def stage_agreement(data: RunData, found: Agreement) -> Figure | None:
    """Return the scores of the candidates that two stages have in common, one stage over the other.

    Args:
        data: The content of the run directory.
        found: The agreement of the two stages.
    """
    cheap = {result.trial: result for result in _with_value(data, data.results[found.cheaper])}
    both = [result for result in _with_value(data, data.results[found.dearer]) if result.trial in cheap]
    if len(both) < 2:
        return None
    x = [rounded(data.value(cheap[result.trial])) for result in both]
    y = [rounded(data.value(result)) for result in both]
    traces = [points(found.dearer, x, y, [_hover(data, result) for result in both], showlegend=False)]
    name = metric_title(data.metric)
    titles = f"{name} after {STAGE_NOUNS[found.cheaper]}", f"{name} after {STAGE_NOUNS[found.dearer]}"
    return figure(traces, x=axis(titles[0]), y=axis(titles[1]), height=320)


_PLANNED = {"recipe": "recipe", "supernet": "supernet", "screening": "candidates", "short": "candidates"}
_PLANNED |= {"finalists": "finalists", "race": "race"}
"""Phases of the plan → phases whose time is counted."""


def phase_times(data: RunData) -> dict[str, tuple[float, float | None]]:
    """Return the used and the planned seconds of each phase, by its name in words.

    Args:
        data: The content of the run directory.
    """
    planned: dict[str, float] = {}
    for phase, seconds in ({} if data.summary is None else data.summary.plan).items():
        counted = _PLANNED.get(phase, phase)
        planned[counted] = planned.get(counted, 0.0) + seconds
    names = [*data.phases, *(name for name in planned if name not in data.phases)]
    titles = {**PHASE_TITLES, "candidates": "screening and short training"}
    return {titles.get(name, name): (data.phases.get(name, 0.0), planned.get(name)) for name in names}


def time_by_phase(data: RunData) -> Figure | None:
    """Return the time that each phase has used, beside what was planned.

    Args:
        data: The content of the run directory.
    """
    times = phase_times(data)
    if not times:
        return None
    names = list(reversed(times))
    traces: list[Trace] = []
    kinds = (
        ("planned", QUIET, [times[name][1] for name in names]),
        ("used", ACCENT, [times[name][0] for name in names]),
    )
    for title, color, seconds in kinds:
        if any(value is not None for value in seconds):
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": title,
                    "x": [None if value is None else rounded(value / 60) for value in seconds],
                    "y": [plain(name) for name in names],
                    "customdata": ["" if value is None else format_seconds(value) for value in seconds],
                    "hovertemplate": f"%{{y}}, {title}: %{{customdata}}<extra></extra>",
                    "marker": {"color": color},
                }
            )
    x = axis("minutes", rangemode="tozero")
    legend = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "traceorder": "reversed"}
    return figure(traces, x=x, y=axis(), height=120 + 40 * len(names), legend=legend, bargap=0.3)


def _with_value(data: RunData, results: Sequence[Result]) -> list[Result]:
    return [result for result in results if math.isfinite(data.value(result))]


def _hover(data: RunData, result: Result, cost: Cost | None = None) -> str:
    lines = [
        f"<b>{plain(model_name(result.key))}</b> {STAGE_VERBS[result.stage]}",
        f"{plain(data.metric)} {data.value(result):.3f}",
        plain(architecture_text(result.architecture), 120),
    ]
    value = None if cost is None else cost_of(data, result, cost)
    if value is not None:
        shown = {"memory": format_bytes(value * MEBIBYTE), "parameters": f"{value:,.0f} parameters"}
        lines.append(shown.get(str(cost), f"{value:.1f} ms"))
    return "<br>".join(lines)
