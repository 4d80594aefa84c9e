"""The figures about the predictions of the answer on validation: classes, confusion, calibration."""

from collections.abc import Sequence

import numpy as np

from nas.run.html_report.style import ACCENT, GOOD, QUIET, SHADES, Figure, axis, figure, line, plain, rounded
from nas.training.class_scores import Details

MAX_CLASSES = 40
"""The number of classes that a figure shows; those with the most samples."""


def class_scores(details: Details) -> Figure | None:
    """Return precision, recall and F1 of every class, the lowest F1 on top.

    Args:
        details: How the answer errs.
    """
    scores = sorted(details.classes, key=lambda entry: -entry.samples)[:MAX_CLASSES]
    scores.sort(key=lambda entry: -(entry.f1 or 0.0))
    if not scores:
        return None
    names = [f"{plain(entry.name, 28)} ({entry.samples})" for entry in scores]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "F1",
            "x": [None if entry.f1 is None else rounded(entry.f1) for entry in scores],
            "y": names,
            "marker": {"color": "rgba(63,127,208,0.35)"},
            "hovertemplate": "%{y}: F1 %{x:.3f}<extra></extra>",
        }
    ]
    for title, symbol, color in (("precision", "circle", QUIET), ("recall", "diamond", GOOD)):
        values = [getattr(entry, title) for entry in scores]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [None if value is None else rounded(value) for value in values],
                "y": names,
                "marker": {"color": color, "symbol": symbol, "size": 8},
                "hovertemplate": f"%{{y}}: {title} %{{x:.3f}}<extra></extra>",
            }
        )
    x = axis("score on validation", range=[-0.02, 1.04])
    return figure(traces, x=x, y=axis(ticklabelstep=1), height=130 + 24 * len(names), bargap=0.25)


def confusion(details: Details) -> Figure | None:
    """Return the confusion matrix of single-label data; None for several labels, or without samples.

    Args:
        details: How the answer errs.
    """
    if details.confusion.ndim != 2 or not details.confusion.sum():
        return None
    chosen = _largest(details)
    counts = details.confusion[np.ix_(chosen, chosen)]
    totals = details.confusion.sum(axis=1)[chosen]
    shares = counts / np.maximum(totals, 1)[:, None]
    names = [plain(details.classes[index].name, 24) for index in chosen]
    heat = {
        "type": "heatmap",
        "z": [[rounded(float(share)) for share in row] for row in shares],
        "x": names,
        "y": names,
        "customdata": counts.tolist(),
        "colorscale": SHADES,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y} predicted as %{x}:<br>%{customdata} samples, %{z:.0%} of the class<extra></extra>",
        "showscale": False,
    }
    if len(names) <= 20:
        heat |= {
            "text": [[str(count) if count else "" for count in row] for row in counts.tolist()],
            "texttemplate": "%{text}",
        }
    y = axis("class", autorange="reversed", showgrid=False, ticklabelstep=1)
    x = axis("predicted as", tickangle=-45, showgrid=False, ticklabelstep=1)
    return figure([heat], x=x, y=y, height=min(260 + 26 * len(names), 1000))


def _largest(details: Details) -> list[int]:
    order = sorted(range(len(details.classes)), key=lambda index: -details.classes[index].samples)
    return sorted(order[:MAX_CLASSES])


def confused_pairs(details: Details) -> Sequence[tuple[str, str, int, float]]:
    """Return the ten most frequent confusions: class, predicted class, samples, share of the class.

    Args:
        details: How the answer errs, of single-label data.
    """
    totals = details.confusion.sum(axis=1)
    wrong = details.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    places = [divmod(int(place), len(wrong)) for place in order]
    return [
        (
            details.classes[row].name,
            details.classes[column].name,
            int(wrong[row, column]),
            wrong[row, column] / totals[row],
        )
        for row, column in places
        if wrong[row, column]
    ]


def calibration(details: Details) -> Figure | None:
    """Return how often predictions are right, over how probable the model takes them to be.

    Args:
        details: How the answer errs.
    """
    bins = [entry for entry in details.bins if entry.accuracy is not None and entry.confidence is not None]
    if not bins:
        return None
    share = max(entry.predictions for entry in bins)
    measured = line(
        "measured",
        [rounded(entry.confidence or 0.0) for entry in bins],
        [rounded(entry.accuracy or 0.0) for entry in bins],
        ACCENT,
        mode="lines+markers",
        customdata=[entry.predictions for entry in bins],
        hovertemplate="probability %{x:.2f}, right %{y:.2f}<br>%{customdata} predictions<extra></extra>",
        marker={"color": ACCENT, "size": [6 + 14 * entry.predictions / share for entry in bins]},
    )
    ideal = line("perfect", [0, 1], [0, 1], QUIET, line={"dash": "dash"}, hoverinfo="skip")
    x, y = axis("probability of the prediction", range=[0, 1.02]), axis("share that is right", range=[0, 1.02])
    return figure([ideal, measured], x=x, y=y, height=340)
