"""A headless Chromium, driven through its own protocol: what a reader's browser makes of a page. `make browser` installs it and axe-core."""
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
AXE = ROOT / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"


def program() -> "str | None":
    """The browser on this machine, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab: what it was asked for, what it wrote to its console, and what it answers."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number, self.events = socket, 0, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict:
        """Send a command and wait for its answer; events that come in between are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def open(self, path: Path) -> None:
        """Load a file and wait until it has been laid out."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        for _ in range(200):
            if self.value("document.readyState") == "complete":
                break
            time.sleep(0.05)
        time.sleep(0.2)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, or the promise that it gives, comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "an exception in the page"))
        return answer["result"].get("value")

    def media(self, scheme: str = "light", medium: str = "screen", width: int = 1200, height: int = 900) -> None:
        """Light or dark, screen or paper, and the size of the window."""
        self.call("Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def picture(self, path: Path) -> None:
        """A screenshot of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    @property
    def requests(self) -> "list[str]":
        """Addresses that were asked for, those inside the page (data:) left out."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [u for u in urls if not u.startswith(("data:", "about:"))]

    @property
    def complaints(self) -> "list[str]":
        """Errors and warnings of the console, and exceptions."""
        out = [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded" and e["params"]["entry"]["level"] in ("error", "warning")]
        out += [str(e["params"]["args"][:1]) for e in self.events if e.get("method") == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")]
        return out + [str(e["params"]["exceptionDetails"].get("text")) for e in self.events if e.get("method") == "Runtime.exceptionThrown"]


@contextlib.contextmanager
def page() -> "Iterator[Page]":
    """A fresh tab of a fresh browser without a profile, without extensions and without a way out of the machine."""
    import websocket
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
                 "--remote-allow-origins=*", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}", "about:blank"]
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH",)}
        process = subprocess.Popen([program() or "", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            for _ in range(600):
                if port_file.exists() and port_file.read_text().count("\n"):
                    break
                time.sleep(0.05)
            port = port_file.read_text().split("\n")[0]
            tabs = json.loads(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/json", timeout=20).read())
            address = next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
            socket = websocket.create_connection(address, timeout=60, http_no_proxy=["127.0.0.1"], suppress_origin=True)
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
