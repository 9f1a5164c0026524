"""A study's page in a browser: nothing missing, nothing wider than a telephone, light and dark."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from study_cells import Powers

from trajworld.study.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.once]

# Shows the page in a frame of a width, and writes what is found there into its own text.
HARNESS = """<!doctype html><link rel=icon href=data:,>
<iframe src="SOURCE" style="border:0; height:900px; width:WIDTHpx"></iframe><pre></pre><script>
onload = () => {
  const page = document.querySelector('iframe').contentDocument
  const all = selector => [...page.querySelectorAll(selector)]
  all('details').forEach(one => one.open = true)
  const wide = all('main *').filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0)
  document.querySelector('pre').textContent = btoa(JSON.stringify({
    pictures: all('img').map(one => one.complete ? one.naturalWidth : 0),
    width: page.documentElement.scrollWidth,
    wide: wide.filter(one => !one.closest('.scroll')).map(one => one.tagName),
    ground: getComputedStyle(page.body).backgroundColor.match(/\\d+/g).map(Number),
    shown: all('picture img').map(one => one.currentSrc),
    sources: [...all('picture source').map(one => one.srcset), ...all('picture img').map(one => one.src)],
  }))
}
</script>"""


def seen(page: Path, folder: Path, width: int, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What a headless Chromium finds in a page, and the lines of its console."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium is installed")
    harness = folder / "harness.html"
    harness.write_text(HARNESS.replace("SOURCE", page.as_uri()).replace("WIDTH", str(width)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    # A file may read the file in its frame.
    flags += [
        "--disable-web-security",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
    ]
    flags += [f"--blink-settings=preferredColorScheme={int(not dark)}", "--window-size=1400,1000"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", harness.as_uri()]
    done = subprocess.run([program, *flags], capture_output=True, text=True, timeout=120, check=True)
    found = re.search("<pre>(.+)</pre>", done.stdout)
    assert found, done.stderr
    return json.loads(base64.b64decode(found[1])), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


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
def test_a_page_is_whole_and_fits(file: Path, tmp_path: Path, width: int, dark: bool) -> None:
    found, problems = seen(file, tmp_path, width, dark)
    assert problems == []
    assert len(found["pictures"]) == 2
    assert min(found["pictures"]) > 0
    # What is wider than its box scrolls within it, and tables alone may be.
    assert found["width"] <= width
    assert found["wide"] == []
    assert (max(found["ground"]) < 60) == dark
    # The chart that is shown is the one of this width and scheme.
    assert len(set(found["sources"])) == 4
    wanted = [(400, True), (400, False), (1100, True), (1100, False)].index((width, dark))
    assert found["shown"] == [found["sources"][wanted]]
