"""Write the report of a run."""

from pathlib import Path

from nas.common.files import write_atomically
from nas.run.html_report import class_sections
from nas.run.html_report.data import RunData
from nas.run.html_report.page import Page, PageFigures, Section
from nas.run.html_report.retrieval_section import recalls
from nas.run.html_report.sections import AFTER_CLASSES, BEFORE_CLASSES, lead

HTML_REPORT = "report.html"


def run_sections(data: RunData, figures: PageFigures, *, is_live: bool) -> list[Section]:
    """Return the sections of the report of a run.

    Args:
        data: The content of the run directory.
        figures: The figures of the page.
        is_live: Whether it is written again soon; what takes long is then left for later.
    """
    from nas.run.html_report.predictions import validation_details  # noqa: PLC0415 - imports torch

    is_known = not is_live and not data.config.data.is_retrieval
    found = validation_details(data) if is_known else "Known when the search has ended."
    sections = [build(data, figures) for build in BEFORE_CLASSES]
    if data.config.data.is_retrieval:
        sections.append(recalls(data))
    else:
        sections += [class_sections.classes(found, figures), class_sections.errors(found)]
    return sections + [build(data, figures) for build in AFTER_CLASSES]


def run_page(data: RunData, *, is_live: bool) -> Page:
    """Return the report of a run.

    Args:
        data: The content of the run directory.
        is_live: Whether it is written again soon, so that the page reloads itself.
    """
    figures = PageFigures()
    return Page(
        title=data.config.name,
        lead=lead(data),
        subtitle=f"{data.config.space.architecture_class.title} search in {data.directory}",
        sections=run_sections(data, figures, is_live=is_live),
        figures=figures,
        written=data.time,
        is_live=is_live,
    )


def write_report(data: RunData, path: Path | None = None, *, is_live: bool = False) -> Path:
    """Write the report of a run atomically.

    Args:
        data: The content of the run directory.
        path: The file; None for `report.html` in the run directory.
        is_live: Whether it is written again soon.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written; an old one is then untouched.
    """
    target = data.directory / HTML_REPORT if path is None else path
    write_atomically(target, run_page(data, is_live=is_live).as_html().encode())
    return target
