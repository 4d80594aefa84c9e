"""The table and the plot of a comparison; whole comparisons are in test_compare.py."""

from nas.run.comparison.report import Row, draw_plot

TITLES = ("image only", "text only", "VPT", "P-BERT", "Linear", "LateConcat", "MMBT", "MBT", "BlindPrompt", "PMF")


def row(title: str, accuracy: tuple[float | None, ...], megabytes: float = 100.0) -> Row:
    metrics = tuple(None if value is None else {"accuracy": value} for value in accuracy)
    return Row(
        name=title.lower(),
        title=title,
        is_searched_family=title == "PMF",
        architecture="",
        learning_rate=1e-3,
        trainable_parameters=1000,
        training_bytes=int(megabytes * 2**20),
        measured_peak_bytes=None,
        validation=metrics,
        test=metrics,
        seconds=1.0,
        remark="",
    )


def test_legend_names_every_model_with_a_score() -> None:
    rows = [row(title, (0.5 + index / 50, 0.55), 10.0 * (index + 1)) for index, title in enumerate(TITLES)]
    plot = draw_plot([*rows, row("untrained", (None, None))], "accuracy").decode()
    assert all(f">{title}</text>" in plot for title in TITLES)
    assert "untrained" not in plot and "test accuracy" in plot


def test_plot_without_scores_is_drawn() -> None:
    assert "test accuracy" in draw_plot([row("MBT", (None,))], "accuracy").decode()


def test_same_rows_give_the_same_plot() -> None:
    rows = [row(title, (0.5, 0.6)) for title in TITLES]
    assert draw_plot(rows, "accuracy") == draw_plot(rows, "accuracy")
