"""The table and the plot of a comparison; whole comparisons are in test_compare.py."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas.run.comparison.report import write_names

POINTS = (
    ("image only", 343.0, 0.425, 0.008),
    ("text only", 351.0, 0.581, 0.005),
    ("VPT", 205.0, 0.400, 0.004),
    ("Linear", 4.0, 0.544, 0.008),
    ("LateConcat", 690.0, 0.595, 0.009),
    ("MMBT", 972.0, 0.609, 0.012),
    ("MBT", 697.0, 0.628, 0.004),
    ("BlindPrompt", 376.0, 0.438, 0.001),
    ("PMF", 59.0, 0.586, 0.008),
    ("PMF, searched", 51.0, 0.583, 0.015),
)


def canvas(points: tuple[tuple[str, float, float, float], ...]) -> Figure:
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for _, x, y, error in points:
        axes.errorbar(x, y, yerr=error, fmt="o")
    axes.set_xscale("log")
    axes.margins(0.12)
    figure.draw_without_rendering()
    return figure


def test_names_cover_neither_one_another_nor_points_and_stay_inside() -> None:
    figure = canvas(POINTS)
    (axes,) = figure.axes
    names = write_names(axes, POINTS)
    assert [name.get_text() for name in names] == [name for name, *_ in POINTS]
    boxes = [name.get_window_extent() for name in names]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 < box.x0 < box.x1 < frame.x1 and frame.y0 < box.y0 < box.y1 < frame.y1
        for _, x, y, error in POINTS:
            for part in (-error, 0.0, error):
                assert not box.contains(*axes.transData.transform((x, y + part)))


def test_where_there_is_no_place_names_are_written_all_the_same() -> None:
    points = tuple((f"family {number}", 100.0, 0.5, 0.01) for number in range(20))
    figure = canvas(points)
    (axes,) = figure.axes
    assert len(write_names(axes, points)) == len(points)
    written = [text.get_text() for text in axes.texts]
    assert written == [name for name, *_ in points]
