"""A headless Chromium, driven through its DevTools protocol, for the report's tests."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


# A browser is started this often before it is given up, and has so many seconds: on a
# busy machine it takes twenty.
STARTS, PATIENCE = 3, 90


class BrowserError(Exception):
    """There is a browser, but it does not start."""


class Page:
    """One page of a browser of its own; everything it logs and asks for is kept."""

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000) -> None:
        # A browser that dies while it starts, as some do on a busy machine, is
        # started again with a profile of its own.
        for attempt in range(STARTS):
            try:
                target = self._start(profile / str(attempt), width, height)
                break
            except OSError as err:
                self.close()
                if attempt == STARTS - 1:
                    raise BrowserError(f"Chromium does not start here: {err}") from err
        self._loop = asyncio.new_event_loop()
        self._socket = self._loop.run_until_complete(
            self._connect(target["webSocketDebuggerUrl"])
        )
        self._ids = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(width, height)

    def _start(self, profile: Path, width: int, height: int) -> dict:
        """Start a browser and return its page, or raise OSError."""
        # A browser, its helpers and its profile end together: a group of their own.
        self._process = subprocess.Popen(
            [
                executable() or "chromium",
                *("--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"),
                *("--disable-background-networking", "--disable-dev-shm-usage"),
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                f"--window-size={width},{height}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                # The file can be there before anybody listens.
                port = port_file.read_text().splitlines()[0]
                url = f"http://127.0.0.1:{port}/json"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    pages = [t for t in json.load(answer) if t["type"] == "page"]
                    return pages[0]
            except (OSError, IndexError) as err:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise OSError(f"no page at its port: {err}") from err
            time.sleep(0.1)

    async def _connect(self, url: str) -> object:
        return await websocket_connect(url, max_message_size=2**28)

    def send(self, method: str, **params: object) -> dict:
        number = next(self._ids)
        message = json.dumps({"id": number, "method": method, "params": params})

        async def exchange() -> dict:
            await self._socket.write_message(message)
            while True:
                answer = json.loads(await self._socket.read_message())
                if answer.get("id") == number:
                    return answer
                self._note(answer)

        answer = self._loop.run_until_complete(asyncio.wait_for(exchange(), 90))
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _note(self, event: dict) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            if params["type"] in ("error", "warning", "assert"):
                self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded":
            if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def size(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def open(self, path: Path) -> None:
        self._loaded = False
        self.send("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> object:
        """Evaluate an expression and return its value."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.1)

    def move_mouse(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )

    def screenshot(self, *, whole: bool = False) -> bytes:
        shot = self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
            self._loop.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
