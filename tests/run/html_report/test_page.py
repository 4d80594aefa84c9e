"""The page of the report: complete, without anything from elsewhere, and without markup of the data."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly
import pytest

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.html_report import class_sections, sections
from nas.run.html_report.architecture_drawing import draw_architecture
from nas.run.html_report.data import RunData
from nas.run.html_report.page import Page, PageFigures, asset, for_script
from nas.run.html_report.predictions import Mistake, ValidationDetails
from nas.run.html_report.write import run_page, write_report
from nas.search.trial import Result, Stage
from nas.training.class_scores import Bin, ClassScore, Details
from tests.support.run_data import HOSTILE, SIZES, make_run_data


class Elements(HTMLParser):
    """Collects the elements of a page, and the texts of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


DETAILS = Details(
    [ClassScore(name, 5, 5, 0.6, 0.6, 0.6) for name in ("animals", HOSTILE, "transport")],
    np.array([[3, 2, 0], [1, 3, 1], [1, 0, 4]]),
    [Bin(0.5, 1.0, 15, 0.7, 10 / 15)],
)
ERRORS = ValidationDetails(DETAILS, [Mistake(HOSTILE, HOSTILE, None, (HOSTILE,), ("animals",), 0.9, 0.1)], 5, 15, False)


def page_of(data: RunData, found: ValidationDetails | str = ERRORS) -> str:
    figures = PageFigures()
    parts = [build(data, figures) for build in (*sections.BEFORE_CLASSES, *sections.AFTER_CLASSES)]
    parts += [class_sections.classes(found, figures), class_sections.errors(found)]
    return Page("little", sections.lead(data), HOSTILE, parts, figures, 1.0, False).as_html()


def test_markup_of_the_data_is_text(tmp_path: Path) -> None:
    elements = Elements(page_of(make_run_data(tmp_path)))
    assert len(elements.all("script")) == 3 and not elements.all("b")
    figures = json.loads(elements.scripts[0])
    assert "<script" not in json.dumps(figures)
    names = figures[next(key for key in figures if figures[key]["data"][0]["type"] == "heatmap")]["data"][0]["x"]
    assert any("&lt;script&gt;" in name for name in names)


def test_page_refers_to_nothing_outside_it(tmp_path: Path) -> None:
    elements = Elements(page_of(make_run_data(tmp_path)))
    places = [value for _, attributes in elements.found for key in ("src", "href") if (value := attributes.get(key))]
    assert places and all(place.startswith(("#", "data:")) for place in places)
    policy = next(entry for entry in elements.all("meta") if entry.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'") and "http" not in str(policy["content"])


def test_every_plot_has_a_figure_and_a_description(tmp_path: Path) -> None:
    elements = Elements(page_of(make_run_data(tmp_path)))
    plots = [entry for entry in elements.all("div") if entry.get("class") == "plot"]
    assert len(plots) > 15
    assert {entry["id"] for entry in plots} == json.loads(elements.scripts[0]).keys()
    assert all(entry["role"] == "img" and len(str(entry["aria-label"])) > 20 for entry in plots)
    assert all(entry.get("alt") for entry in elements.all("img"))
    anchors = {str(entry.get("href"))[1:] for entry in elements.all("a")}
    assert anchors <= {str(attributes.get("id")) for _, attributes in elements.found}


def test_sections_without_data_say_why(tmp_path: Path) -> None:
    empty: dict[Stage, list[Result]] = {"one_shot": [], "short": [], "full": []}
    data = make_run_data(tmp_path, results=empty, jobs=[], curves=[], phases={}, simple={}, summary=None, parameters={})
    page = page_of(data, "Known when the search has ended.")
    elements = Elements(page)
    assert not [entry for entry in elements.all("div") if entry.get("class") == "plot"]
    assert len(elements.all("section")) == 12 and page.count('class="quiet"') >= 12


def test_page_of_a_running_search_reloads_itself_and_others_do_not(tmp_path: Path) -> None:
    running = run_page(make_run_data(tmp_path, is_running=True), is_live=True).as_html()
    stopped = run_page(make_run_data(tmp_path), is_live=False).as_html()
    assert 'data-live="true"' in running and 'data-live="false"' in stopped
    assert "The search is running. Best so far: #" in running and "The search has not ended" in stopped


def test_report_of_a_thousand_trials_is_small(tmp_path: Path) -> None:
    path = write_report(make_run_data(tmp_path, count=1000))
    assert path == tmp_path / "report.html" and path.stat().st_size < 4_000_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_numbers_that_json_lacks_are_null() -> None:
    assert for_script({"x": [float("nan"), float("inf"), 1.5], "y": "</script>"}) == (
        '{"x":[null,null,1.5],"y":"\\u003c/script\\u003e"}'
    )


def test_plotly_in_the_page_is_that_of_the_package() -> None:
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    heads = (script.read_text()[:200], asset("plotly-cartesian.min.js")[:200])
    package, page = (found[1] if (found := re.search(r"v(\d+)\.\d+\.\d+", head)) else None for head in heads)
    assert package == page is not None


@pytest.mark.parametrize("fusion_layer", [0, 4])
def test_drawing_has_a_dot_for_each_prompt(fusion_layer: int) -> None:
    drawn = draw_architecture(PMFArchitecture(fusion_layer, 3, 2, 1, 48), SIZES)
    layers = SIZES.shallower - fusion_layer
    assert drawn.count('class="fusing"') == 2 * layers and drawn.count('class="frozen"') == 2 * (6 - layers)
    for kind, count in (("query-dot", 3), ("query-context-dot", 2), ("context-dot", 1)):
        assert drawn.count(f'class="{kind}"') == 2 * layers * count
    assert drawn.count('class="mapping"') == 2 * layers
