"""The report in a real browser: Debian's chromium, driven by selenium (`apt-get install chromium chromium-driver`)."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from nas.run.html_report.write import run_page
from tests.run.html_report.test_page import page_of
from tests.support.run_data import HOSTILE, make_run_data

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver (chromium-driver)"),
]

_SECONDS = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a thousand trials, with markup in captions and class names."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_of(make_run_data(path.parent, count=1000)), encoding="utf-8")
    return path


def wait(browser: webdriver.Chrome, is_done: Callable[[webdriver.Chrome], Any]) -> None:
    WebDriverWait(browser, _SECONDS).until(is_done)


def show(browser: webdriver.Chrome, page: Path, *, width: int, theme: str) -> None:
    """Open a page with a window width and a theme, and draw all of its plots."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    browser.get(page.as_uri())
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    undrawn = "return [...document.querySelectorAll('.plot')].filter(plot => !plot.dataset.drawn).length"
    wait(browser, lambda driver: driver.execute_script(undrawn) == 0)


def style(browser: webdriver.Chrome, selector: str, name: str) -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return str(browser.execute_script(script, selector, name))


def problems(browser: webdriver.Chrome) -> list[str]:
    """Return the messages of the console, and the requests to any place but the page itself."""
    logs = {kind: browser.get_log(kind) for kind in ("browser", "performance")}  # type: ignore[no-untyped-call]
    found = [entry["message"] for entry in logs["browser"]]
    for entry in logs["performance"]:
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = message["params"]["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:")):
                found.append(address)
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_page_is_drawn_without_errors_or_requests(
    browser: webdriver.Chrome, page: Path, width: int, theme: str
) -> None:
    show(browser, page, width=width, theme=theme)
    assert problems(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Every plot has marks, not only axes.
    marks = "svg .point, svg .js-line, svg .hm, svg .trace"
    empty = "return [...document.querySelectorAll('.plot')].filter(plot => !plot.querySelector(arguments[0])).length"
    assert browser.execute_script(empty, marks) == 0
    light = style(browser, "body", "backgroundColor") == "rgb(246, 247, 249)"
    assert light == (theme == "light")
    assert style(browser, ".plot text", "fill") == ("rgb(29, 39, 51)" if light else "rgb(227, 232, 238)")


def test_figures_follow_a_change_of_the_theme(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page, width=1280, theme="light")
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    wait(browser, lambda driver: style(driver, ".plot text", "fill") == "rgb(227, 232, 238)")


def test_markup_of_the_data_is_shown_as_text(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page, width=1280, theme="light")
    assert HOSTILE in browser.execute_script("return document.querySelector('#data table').textContent")
    labels = browser.execute_script(
        "return [...document.querySelectorAll('#classes .plot text')].map(x => x.textContent)"
    )
    assert any(label.startswith("</script><script>") for label in labels)
    assert browser.execute_script("return document.querySelectorAll('#classes .plot b, script').length") == 3


def test_page_is_used_by_keyboard(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page, width=1280, theme="light")
    focused = "return document.activeElement.textContent"
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script(focused) == "Skip to the content"
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script(focused) == "Overview"
    fold = browser.find_element("css selector", "#history summary")
    browser.execute_script("arguments[0].focus()", fold)
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    wait(browser, lambda driver: driver.execute_script("return document.querySelector('#history details').open"))


def test_page_of_a_running_search_reloads_itself_until_it_is_paused(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"

    def write(count: int) -> None:
        data = make_run_data(tmp_path, count=count, is_running=True)
        path.write_text(run_page(data, is_live=True).as_html(), encoding="utf-8")

    def candidates(driver: webdriver.Chrome) -> str:
        return str(driver.execute_script("return document.querySelectorAll('.facts dd')[1].firstChild.textContent"))

    write(10)
    show(browser, path, width=1280, theme="light")
    assert candidates(browser) == "10"
    write(20)
    wait(browser, lambda driver: candidates(driver) == "20")
    browser.find_element("id", "pause").click()
    assert browser.find_element("id", "pause").get_attribute("aria-pressed") == "true"
    assert problems(browser) == []
