"""A page in headless Chromium, driven over its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "about:blank"),
)


class Page:
    """A tab: what it says on its console, and what it answers."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers, self._events = socket, itertools.count(1), list[dict[str, Any]]()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol; its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._events.append(message)

    def open(self, file: Path, width: int, dark: bool) -> None:
        """Load a file as on a screen of that width, in a light or dark scheme, and wait until all is loaded."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 640}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self._events.clear()
        for domain in ("Page", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(json.loads(self._socket.recv(timeout=60)))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Errors and warnings of the page."""
        return [
            event["params"]
            for event in self._events
            if event["method"] == "Runtime.exceptionThrown"
            or (event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] != "verbose")
            or (
                event["method"] == "Runtime.consoleAPICalled"
                and event["params"]["type"] in ("error", "warning")
            )
        ]

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextlib.contextmanager
def browser_page(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own; the test is skipped where none is installed."""
    client = pytest.importorskip("websockets.sync.client")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium is installed")
    process = subprocess.Popen(
        [program, f"--user-data-dir={profile}", *_FLAGS], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said = ""
        while "DevTools listening on " not in said:
            said = process.stderr.readline()
            assert said, "Chromium did not start"
        address = said.rpartition(" ")[2].strip()
        with client.connect(address, max_size=None, proxy=None) as socket:
            tabs = Page(socket).call("Target.getTargets")["targetInfos"]
        tab = next(one["targetId"] for one in tabs if one["type"] == "page")
        host = address.partition("/devtools/")[0]
        with client.connect(f"{host}/devtools/page/{tab}", max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(timeout=30)
