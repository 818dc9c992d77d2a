"""A real browser for tests: Chromium without a window, by the WebDriver protocol."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")

#: what a key is called in the protocol
KEYS = {"ArrowDown": "\ue015", "ArrowUp": "\ue013", "Tab": "\ue004", "Enter": "\ue007"}


class Browser:
    """One window."""

    def __init__(self, *, dark=False, script=True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.root = f"http://127.0.0.1:{port}"
        # as root the browser does not start with its sandbox
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1500,1000"]
        arguments += ["--force-dark-mode"] if dark else []
        options = {"binary": BROWSER, "args": arguments}
        if not script:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._wait()
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"

    def close(self):
        try:
            self._ask("DELETE", self.session)
        finally:
            self.process.kill()
            self.process.wait()

    def open(self, address):
        self._ask("POST", f"{self.session}/url", {"url": address})

    def run(self, script, *arguments):
        """What a script returns that runs in the page."""
        return self._ask(
            "POST", f"{self.session}/execute/sync", {"script": script, "args": arguments}
        )

    def click(self, selector):
        self._ask("POST", f"{self._element(selector)}/click", {})

    def text(self, selector):
        return self._ask("GET", f"{self._element(selector)}/text")

    def press(self, *keys):
        actions = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._ask("POST", f"{self.session}/actions", {"actions": [source]})

    def complaints(self):
        """What the page has written to the console."""
        return self._ask("POST", f"{self.session}/se/log", {"type": "browser"})

    def requests(self):
        """Addresses that the page has asked for."""
        log = self._ask("POST", f"{self.session}/se/log", {"type": "performance"})
        events = [json.loads(line["message"])["message"] for line in log]
        return [
            each["params"]["request"]["url"]
            for each in events
            if each["method"] == "Network.requestWillBeSent"
        ]

    def _element(self, selector):
        asked = {"using": "css selector", "value": selector}
        found = self._ask("POST", f"{self.session}/element", asked)
        return f"{self.session}/element/{next(iter(found.values()))}"

    def _wait(self):
        end = time.monotonic() + 60
        while True:
            try:
                self._ask("GET", "/status")
                return
            except OSError:
                assert time.monotonic() < end, "chromedriver does not answer"
                time.sleep(0.05)

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from None
