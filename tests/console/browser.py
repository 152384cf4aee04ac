"""A headless Chromium, spoken to over its debugging pipe: no further package, and no port."""

import base64
import contextlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANSWERS_WITHIN = 60.0


class Page:
    """A tab. What it logs as an error, and what it asks of others than `origin`, is kept."""

    def __init__(self, browser: "Browser", session: str, origin: str) -> None:
        self._browser, self._session, self._origin = browser, session, origin
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.bytes = 0  # received over the network, as sent
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def size(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: str) -> None:
        self.call("Page.navigate", url=self._origin + path)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, deadline: float = 30.0) -> None:
        """Wait until a script returns something true, also over a navigation."""
        end = time.monotonic() + deadline
        while True:
            try:
                if self.run(f"!!({script})"):
                    return
                why = ""
            except AssertionError as error:  # what it looks at is not there yet, or the page is about to go
                why = str(error)[:500]
            assert time.monotonic() < end, f"{script} does not hold {why}; the page says: {self.text()}"
            time.sleep(0.02)

    def text(self, selector: str = "body") -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def picture(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def key(self, key: str, text: str = "") -> None:
        code = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowRight": 39}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def heard(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if told["type"] in {"error", "warning", "assert"}:
                self.errors.append(json.dumps(told["args"])[:500])
            case "Log.entryAdded" if told["entry"]["level"] in {"error", "warning"}:
                self.errors.append(told["entry"]["text"] + " " + told["entry"].get("url", ""))
            case "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not url.startswith((self._origin + "/", "data:")):
                    self.foreign.append(url)
            case "Network.loadingFinished":
                self.bytes += int(told["encodedDataLength"])


class Browser:
    """One browser; each page of it is a tab with no past."""

    def __init__(self, process: subprocess.Popen[bytes], sending: int, hearing: int) -> None:
        self._process, self._sending = process, sending
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._number = 0
        threading.Thread(target=self._listen, args=(hearing,), daemon=True).start()

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        self._number += 1
        number, answers = self._number, queue.Queue[dict[str, Any]]()
        self._answers[number] = answers
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        answer = answers.get(timeout=ANSWERS_WITHIN)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    @contextlib.contextmanager
    def page(self, origin: str) -> Iterator[Page]:
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, origin)
        self._pages[session] = page
        try:
            yield page
        finally:
            del self._pages[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def _listen(self, hearing: int) -> None:
        rest = b""
        while chunk := os.read(hearing, 1 << 20):
            *whole, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, whole):
                if (answers := self._answers.pop(message.get("id", 0), None)) is not None:
                    answers.put(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.heard(message["method"], message["params"])


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Run a browser until the end of the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = (
            "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage --disable-extensions"
            " --disable-background-networking --disable-component-update --remote-debugging-pipe"
        )
        program = chromium()
        command = f'exec "{program}" {options} --user-data-dir="{folder}" about:blank 3<&{to_read} 4>&{from_write}'
        process = subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(process, to_write, from_read)
        finally:
            with contextlib.suppress(OSError):
                os.write(to_write, b'{"id": 0, "method": "Browser.close"}\0')
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            os.close(to_write)
