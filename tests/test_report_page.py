"""A study's page in a browser: nothing missing, nothing wider than a telephone, light and dark."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser import Page, browser_page
from matplotlib.figure import Figure
from study_cells import Powers

from trajworld.study.report import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"base": base, "exponent": exponent, "seed": seed, "value": base**exponent + seed / 10, "cell": "a"}
        for base in (2, 3)
        for exponent in (1, 2, 3)
        for seed in range(3)
    ]
    picture = io.BytesIO()
    Figure(figsize=(10, 4)).savefig(picture)
    study, origin = Powers(bases=(2, 3)), {"cells": 6, "seconds": 61.0, "long": "many words " * 30}
    folder = tmp_path_factory.mktemp("study") / "report"
    return write_report(study, pd.DataFrame(rows), folder, origin, {"A picture": picture.getvalue()})


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_a_page_is_whole_and_fits(tab: Page, file: Path, width: int, dark: bool) -> None:
    tab.open(file, width, dark)
    tab.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    tab.run("Promise.all([...document.images].map(one => one.decode()))")
    assert tab.problems == []
    pictures = tab.run("[...document.images].map(one => one.naturalWidth)")
    assert len(pictures) == 2
    assert min(pictures) > 0
    assert tab.run("document.documentElement.scrollWidth") <= width
    # What is wider than its box scrolls within it, and tables alone may be.
    wide = "[...document.querySelectorAll('main *')].filter(one => one.scrollWidth > one.clientWidth + 1 &&"
    wide += " one.clientWidth > 0 && !one.closest('.scroll')).map(one => one.outerHTML.slice(0, 80))"
    assert tab.run(wide) == []
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (max(tab.run(brightness)) < 60) == dark
    # The chart that is shown is the one of this width and scheme.
    shown = tab.run("document.querySelector('picture img').currentSrc")
    sources = tab.run("[...document.querySelectorAll('picture source')].map(one => one.srcset)")
    plain = tab.run("document.querySelector('picture img').src")
    wanted = {
        (400, True): sources[0],
        (400, False): sources[1],
        (1100, True): sources[2],
        (1100, False): plain,
    }
    assert shown == wanted[width, dark]
    assert len({plain, *sources}) == 4


def test_a_page_that_lacks_something_is_noticed(tab: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!doctype html><link rel=icon href=data:,><img src=missing.png><script>wrong()</script>"
    )
    tab.open(broken, 400, dark=False)
    assert len(tab.problems) >= 2
