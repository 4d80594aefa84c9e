"""The sections of a report about the predictions of the answer on validation: classes and worst errors."""

from collections.abc import Sequence
from html import escape

from nas.run.html_report import class_figures
from nas.run.html_report.page import PageFigures, Section, details, note, table
from nas.run.html_report.predictions import Mistake, ValidationDetails


def classes(found: ValidationDetails | str, page: PageFigures) -> Section:
    """Return the section with the scores of the classes, the confusion matrix and the calibration.

    Args:
        found: How the answer errs on validation; or why that is not known.
        page: The figures of the page.
    """
    title = "Classes"
    if isinstance(found, str):
        return Section("classes", title, note(found))
    scores = found.details.classes
    worst = min((entry for entry in scores if entry.f1 is not None), key=lambda entry: entry.f1 or 0.0, default=None)
    label = "Precision, recall and F1 of each class on validation."
    if worst is not None:
        label += f" The lowest F1, {worst.f1:.3f}, has {worst.name}."
    limit = class_figures.MAX_CLASSES
    caption = "The number of samples is in brackets." + (
        f" The {limit} largest classes." if len(scores) > limit else ""
    )
    body = page.add(
        class_figures.class_scores(found.details), empty="There are no classes.", label=label, caption=caption
    )
    header = ("class", "samples", "predicted", "precision", "recall", "F1")
    rows = [
        (
            entry.name,
            f"{entry.samples:,}",
            f"{entry.predicted:,}",
            *map(_share, (entry.precision, entry.recall, entry.f1)),
        )
        for entry in scores
    ]
    body += details("Scores of all classes as a table", table(header, rows, caption="Scores of all classes"))
    if not found.has_several_labels:
        body += f"<h3>Confusion matrix</h3>{_confusion(found, page)}"
    error = found.details.calibration_error
    what = "labels" if found.has_several_labels else "predictions"
    body += "<h3>Calibration</h3>" + page.add(
        class_figures.calibration(found.details),
        empty="There are no predictions.",
        label=f"Calibration on validation; expected calibration error {error:.3f}.",
        caption=f"How often {what} of a probability are right. Expected calibration error {error:.3f}; 0 is perfect.",
    )
    return Section("classes", title, body)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _confusion(found: ValidationDetails, page: PageFigures) -> str:
    pairs = class_figures.confused_pairs(found.details)
    words = "; ".join(f"{truth} predicted as {guess} {count} times" for truth, guess, count, _ in pairs[:3])
    drawn = page.add(
        class_figures.confusion(found.details),
        empty="There are no samples.",
        label=f"Confusion matrix on validation. Most frequent: {words or 'no confusion'}.",
        caption="Each row is a class; its cells are where its samples were sorted, by their share of the class.",
        min_width=560,
    )
    if not pairs:
        return drawn
    header = ("class", "predicted as", "samples", "share of the class")
    rows = [(truth, guess, f"{count:,}", f"{share:.0%}") for truth, guess, count, share in pairs]
    return drawn + details("Most frequent confusions", table(header, rows, caption="Most frequent confusions"))


def errors(found: ValidationDetails | str) -> Section:
    """Return the section with the worst errors, their pictures and texts.

    Args:
        found: How the answer errs on validation; or why that is not known.
    """
    title = "Worst errors"
    if isinstance(found, str):
        return Section("errors", title, note(found), "Errors")
    if not found.mistakes:
        return Section(
            "errors", title, note(f"All {found.sample_count:,} validation samples are predicted correctly."), "Errors"
        )
    cards = "".join(map(_card, found.mistakes))
    sentence = (
        f"{found.error_count:,} of {found.sample_count:,} validation samples are predicted wrongly. These are the "
        "errors of which the model is most certain; some may be wrong labels."
    )
    return Section("errors", title, f'{note(sentence)}<ul class="errors">{cards}</ul>', "Errors")


def _card(mistake: Mistake) -> str:
    alternative = f"Image {mistake.image}: {mistake.text or 'without text'}"
    picture = (
        f'<div class="missing">{escape(mistake.image)} cannot be read</div>'
        if mistake.picture is None
        else f'<img src="{escape(mistake.picture)}" alt="{escape(alternative)}">'
    )
    text = escape(_short(mistake.text)) if mistake.text.strip() else '<span class="quiet">no text</span>'
    return (
        f'<li>{picture}<div class="words"><p>{text}</p>'
        f'<p class="quiet">predicted <span class="guess">{escape(_listed(mistake.guess))}</span> '
        f"({mistake.confidence:.0%})</p>"
        f'<p class="quiet">labelled <span class="truth">{escape(_listed(mistake.truth))}</span> '
        f"({mistake.truth_probability:.0%})</p></div></li>"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no label"


def _short(text: str, limit: int = 280) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
