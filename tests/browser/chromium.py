"""Headless Chromium, driven through its DevTools protocol: pages are opened, clicked, typed into and looked at."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from websockets.sync.client import ClientConnection, connect

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
    "--mute-audio",
    "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")
KEYS = {
    "Enter": 13, "Tab": 9, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
    "Home": 36, "End": 35, "PageUp": 33, "PageDown": 34, "Backspace": 8, "Delete": 46,
}  # fmt: skip
KEY_TEXT = {"Enter": "\r"}


def executable() -> str | None:
    """Path of a Chromium on this machine, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Address (http://127.0.0.1:PORT) of a Chromium that lives as long as the block; ``profile`` is an empty folder."""
    path = executable()
    assert path is not None, "no Chromium on this machine"
    command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        wait_until(lambda: port.exists() and "\n" in port.read_text(), 60, "Chromium did not start")
        yield f"http://127.0.0.1:{port.read_text().split()[0]}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(found: Any, timeout: float, complaint: str) -> None:
    """Returns when ``found()`` is true; AssertionError with ``complaint`` after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < end, complaint
        time.sleep(0.05)


class Page:
    """One tab. ``errors``: console errors and exceptions; ``requests``: addresses asked for, local files excepted."""

    def __init__(self, browser: str) -> None:
        with urlopen(Request(f"{browser}/json/new?about:blank", method="PUT")) as answer:
            target = json.load(answer)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._browser, self._target, self._n = browser, target["id"], 0
        self._socket: ClientConnection = connect(target["webSocketDebuggerUrl"], max_size=None, open_timeout=60)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.viewport(1280, 900)

    def close(self) -> None:
        self._socket.close()
        urlopen(f"{self._browser}/json/close/{self._target}").close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one protocol method; what happens meanwhile is noted. AssertionError where it is refused."""
        self._n += 1
        self._socket.send(json.dumps({"id": self._n, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("id") == self._n:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, what: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in what["args"]))
        elif event == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(f"{what['entry']['text']} {what['entry'].get('url', '')}".strip())
        elif event == "Network.requestWillBeSent" and not what["request"]["url"].startswith(LOCAL):
            self.requests.append(what["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(what["url"])

    def goto(self, url: str | Path, timeout: float = 30) -> None:
        """Opens an address (or a file) and returns when it has loaded."""
        address = url.resolve().as_uri() if isinstance(url, Path) else url
        here = self.evaluate("location.href").split("#")[0]
        failed = self.call("Page.navigate", url=address).get("errorText")
        assert not failed, f"{address}: {failed}"
        if here != address.split("#")[0]:
            self.wait_for("location.href !== 'about:blank'", timeout)
        self.wait_for("document.readyState === 'complete'", timeout)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (a promise is awaited); AssertionError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        details = found.get("exceptionDetails")
        assert not details, f"{expression}: {(details or {}).get('exception', {}).get('description', details)}"
        return found["result"].get("value")

    def wait_for(self, expression: str, timeout: float = 15) -> None:
        """Returns when a JavaScript expression is truthy; AssertionError after ``timeout`` seconds."""
        wait_until(
            lambda: self.evaluate(f"!!({expression})"), timeout, f"never true: {expression}; errors: {self.errors}"
        )

    def centre(self, selector: str) -> tuple[float, float]:
        """Where the first match is in the viewport, in CSS pixels, after scrolling it there, once it stands still."""
        self.wait_for(f"document.querySelector({json.dumps(selector)})")
        place, before = self.place(selector), None
        while place != before:
            self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            place, before = self.place(selector), place
        return place

    def place(self, selector: str) -> tuple[float, float]:
        x, y = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});"
            f" const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        return x, y

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One mouse event; kind: mouseMoved, mousePressed, mouseReleased, mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        """Moves to the middle of the first match, presses and releases."""
        self.click_at(*self.centre(selector))

    def click_at(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def hover(self, selector: str) -> None:
        x, y = self.centre(selector)
        self.mouse("mouseMoved", x - 1, y)
        self.mouse("mouseMoved", x, y)

    def wheel(self, selector: str, dy: float, dx: float = 0) -> None:
        """Turns the wheel over the middle of the first match; positive ``dy`` scrolls down."""
        self.mouse("mouseWheel", *self.centre(selector), deltaX=dx, deltaY=dy)

    def drag(self, selector: str, dx: float, dy: float, steps: int = 5) -> None:
        """Presses in the middle of the first match, moves by (dx, dy) and releases."""
        x, y = self.centre(selector)
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        for step in range(1, steps + 1):
            self.mouse("mouseMoved", x + dx * step / steps, y + dy * step / steps, button="left", buttons=1)
        self.mouse("mouseReleased", x + dx, y + dy, button="left", clickCount=1)

    def key(self, name: str, shift: bool = False) -> None:
        """Presses and releases one key: a character, or Enter, Tab, Escape, ArrowDown, …"""
        text = KEY_TEXT.get(name, name if len(name) == 1 else "")
        code = KEYS.get(name, ord(name.upper()) if len(name) == 1 else 0)
        common = {"key": name, "windowsVirtualKeyCode": code, "code": name, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Types text into what has the focus."""
        self.call("Input.insertText", text=text)

    def viewport(self, width: int, height: int, mobile: bool = False) -> None:
        """Sets the window's size in CSS pixels; ``mobile`` also makes it a touch screen with a phone's viewport."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def dark(self, on: bool) -> None:
        """Sets prefers-color-scheme."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def javascript(self, on: bool) -> None:
        """Whether pages loaded from now on may run scripts (``evaluate`` works either way)."""
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Writes a PNG of the viewport, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}}
