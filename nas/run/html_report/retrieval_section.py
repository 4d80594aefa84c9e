"""The section of a report about the recalls of the answer of a search for retrieval."""

from nas.run.html_report.data import RunData
from nas.run.html_report.page import Section, note, table
from nas.run.roles import BEST
from nas.search.metric_registry import metric_names


def recalls(data: RunData) -> Section:
    """Return the section with all recalls of the answer, on validation and on test.

    Args:
        data: The content of the run directory.
    """
    title, answer = "Recalls", data.report.get(BEST)
    if answer is None:
        return Section("recalls", title, note("Known when the search has ended and its answer is evaluated."))
    sides = ("validation", "test")
    rows = [(name, *(f"{answer[side][name]:.3f}" for side in sides)) for name in metric_names(kind="pairs")]
    explained = (
        "The gallery are all different pictures or texts of a split; ties count against the model. A query is right "
        "if any of its partners is among the first."
    )
    return Section("recalls", title, table(("metric", *sides), rows, caption="Recalls of the answer") + note(explained))
