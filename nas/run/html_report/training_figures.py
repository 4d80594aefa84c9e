"""The figures about trainings: their learning curves, and the memory that their workers held."""

from collections.abc import Iterable, Sequence

from nas.run.history import HistoryPoint
from nas.run.html_report.data import RunData
from nas.run.html_report.job_times import JobTime
from nas.run.html_report.style import (
    ACCENT,
    BAD,
    GOOD,
    MEBIBYTE,
    QUIET,
    STAGE_COLORS,
    Figure,
    Trace,
    axis,
    figure,
    line,
    plain,
    rounded,
)
from nas.run.progress_lines import metric_title
from nas.search.keys import key_to_json
from nas.search.trial import STAGES

_MAX_CURVES = 60
_MAX_POINTS = 200
_MAX_WORKERS = 12
_CLOSE = 0.005
"""Pauses of a worker below this part of the time are not drawn."""

MAX_JOBS = 600
"""The number of the last jobs that the figure of memory shows."""


def learning_curves(data: RunData) -> Figure | None:
    """Return the training losses of the supernet and of all trainings, of very many those of the last ones.

    The answer is drawn thick.

    Args:
        data: The content of the run directory.
    """
    traces = _curves(data, "train", "loss")
    y = axis("training loss")
    return figure(traces, x=axis("training step", rangemode="tozero"), y=y, height=360) if traces else None


def validation_curves(data: RunData) -> Figure | None:
    """Return the metric on validation of trainings that were evaluated on their way; see `learning_curves`.

    Args:
        data: The content of the run directory.
    """
    traces = _curves(data, "validation", data.metric)
    y = axis(f"validation {metric_title(data.metric)}")
    return figure(traces, x=axis("training step", rangemode="tozero"), y=y, height=360) if traces else None


def _curves(data: RunData, split: str, name: str) -> list[Trace]:
    """Return the curves of a value that have more than one point."""
    series: dict[tuple[str, str, int], list[HistoryPoint]] = {}
    for point in data.curves:
        if (point.split, point.name) == (split, name):
            series.setdefault((point.trial, point.stage, point.seed), []).append(point)
    series = {key: curve for key, curve in series.items() if len(curve) > 1}
    answers = {str(key_to_json(result.key)) for result, _ in data.answer_members}
    shown = list(series.items())[-_MAX_CURVES:]
    colors = {"supernet": GOOD} | {stage: STAGE_COLORS[stage] for stage in STAGES}
    traces: list[Trace] = []
    named: set[str] = set()
    # The answer last, so that it lies above the others.
    for (trial, stage, _), curve in sorted(shown, key=lambda entry: entry[0][0] in answers and entry[0][1] == "full"):
        is_answer = trial in answers and stage == "full"
        thinned = _thinned(curve)
        label = "answer" if is_answer else _STAGE_NAMES.get(stage, stage)
        model = f"#{trial}" if trial.isdecimal() else trial
        title = plain(label if model == label else f"{model}, {label}")
        traces.append(
            line(
                plain(label),
                [point.step for point in thinned],
                [rounded(point.value) for point in thinned],
                BAD if is_answer else colors.get(stage, QUIET),
                line={"width": 2.5 if is_answer else 1.2},
                opacity=1.0 if is_answer or stage == "supernet" else 0.55,
                hovertemplate=f"{title}: {name} %{{y:.4g}} at step %{{x:,}}<extra></extra>",
                legendgroup=label,
                showlegend=label not in named,
            )
        )
        named.add(label)
    return traces


_STAGE_NAMES = {
    "full": "full training",
    "short": "short training",
    "one_shot": "screening",
    "rerun": "further seeds",
}


def _thinned(curve: Sequence[HistoryPoint]) -> Sequence[HistoryPoint]:
    if len(curve) <= _MAX_POINTS:
        return curve
    step = (len(curve) - 1) / (_MAX_POINTS - 1)
    return [curve[round(index * step)] for index in range(_MAX_POINTS)]


def worker_memory(data: RunData) -> Figure | None:
    """Return what the jobs of each worker were predicted to need and what the worker held, over time.

    Args:
        data: The content of the run directory.
    """
    jobs = sorted(data.jobs, key=lambda job: job.time)[-MAX_JOBS:]
    if not jobs:
        return None
    start = min(job.time - job.seconds for job in jobs)
    lanes: dict[tuple[str, int], list[JobTime]] = {}
    for job in jobs:
        lanes.setdefault((job.device, job.worker), []).append(job)
    names = sorted(lanes)[:_MAX_WORKERS]
    traces: list[Trace] = []
    layout: dict[str, object] = {}
    share = 1 / len(names)
    top = 1.1 * max(max(job.predicted_peak_bytes, job.measured_peak_bytes or 0) for job in jobs) / MEBIBYTE
    for row, lane in enumerate(names):
        suffix = str(row + 1) if row else ""
        place = {"yaxis": f"y{suffix}"} if row else {}
        for title, color, values in _memory_of(lanes[lane], start):
            times, heights, texts = values
            fill = {"fill": "tozeroy", "fillcolor": "rgba(63,127,208,0.18)"} if title == "held" else {}
            shape = {"width": 1.5, **({"dash": "dot"} if title == "predicted" else {})}
            hover = {"text": texts, "hovertemplate": "%{text}<extra></extra>"}
            group = {"legendgroup": title, "showlegend": row == 0}
            traces.append(line(title, times, heights, color, line=shape, **place, **fill, **hover, **group))
        domain = [1 - (row + 1) * share + 0.12 * share, 1 - row * share - 0.02 * share]
        label = f"worker {lane[1] + 1}" + (f"<br>{plain(lane[0], 24)}" if len({name for name, _ in lanes}) > 1 else "")
        layout[f"yaxis{suffix}"] = axis(f"{label}<br>MiB", domain=domain, range=[0, top], nticks=4)
    height = 110 + 130 * len(names)
    x = axis("minutes since the first job shown", rangemode="tozero", anchor=f"y{len(names) if len(names) > 1 else ''}")
    found = figure(traces, x=x, y={}, height=height)
    found["layout"] |= layout
    return found


Steps = tuple[list[float], list[float], list[str]]


def _memory_of(jobs: Sequence[JobTime], start: float) -> Iterable[tuple[str, str, Steps]]:
    """Yield the names, colours and steps of what the jobs of a worker were predicted to need and of what it held.

    Between jobs that follow each other closely, the steps do not go down to zero.
    """
    span = max(jobs[-1].time - start, 1e-9)
    for title, color in (("predicted", QUIET), ("held", ACCENT)):
        times: list[float] = []
        heights: list[float] = []
        texts: list[str] = []
        for job in jobs:
            size = job.predicted_peak_bytes if title == "predicted" else job.measured_peak_bytes
            if size is None:
                continue
            begin, end = rounded((job.time - job.seconds - start) / 60), rounded((job.time - start) / 60)
            steps = [(begin, 0.0), (begin, size / MEBIBYTE), (end, size / MEBIBYTE), (end, 0.0)]
            if times and 60 * (begin - times[-1]) < _CLOSE * span:
                steps = steps[1:]
                del times[-1], heights[-1], texts[-1]
            times += [time for time, _ in steps]
            heights += [rounded(height) for _, height in steps]
            texts += [_job_text(job)] * len(steps)
        yield title, color, (times, heights, texts)


def _job_text(job: JobTime) -> str:
    held = "not measured" if job.measured_peak_bytes is None else f"{job.measured_peak_bytes / MEBIBYTE:,.0f} MiB"
    more = f" and {job.models - 1} more" if job.models > 1 else ""
    return (
        f"<b>{plain(job.model)}{more}</b>, {_STAGE_NAMES.get(job.stage, plain(job.stage))}, {job.seconds:.1f} s"
        f"<br>predicted {job.predicted_peak_bytes / MEBIBYTE:,.0f} MiB, held {held}"
    )


def memory_facts(data: RunData) -> list[tuple[str, int, int, int]]:
    """Return, for each stage, the number of its jobs with a measured peak, and their largest prediction and peak.

    Args:
        data: The content of the run directory.
    """
    found = []
    for stage in STAGES:
        jobs = [job for job in data.jobs if job.stage == stage and job.measured_peak_bytes is not None]
        if jobs:
            held = [job.measured_peak_bytes or 0 for job in jobs]
            found.append((_STAGE_NAMES[stage], len(jobs), max(job.predicted_peak_bytes for job in jobs), max(held)))
    return found
