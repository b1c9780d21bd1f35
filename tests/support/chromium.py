"""Chromium by its debugging protocol over a pipe: open a page, run JavaScript in it, take its picture."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 60.0  # seconds that one answer may take
_PAIR: Final = 'exec chromium "$@" 3<&"$TOLD" 4>&"$HEARD"'


class Gone(Exception):
    """The page went elsewhere while it was asked."""


class Browser:
    """One page of a headless Chromium.

    Args:
        told, heard: ends of the pipes to it and from it.
    """

    def __init__(self, told: int, heard: int) -> None:
        self._told, self._heard = told, heard
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", None, url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol to the page, and its result."""
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._told, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Gone
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._heard], [], [], PATIENCE)[0], "Chromium does not answer"
            more = os.read(self._heard, 1 << 20)
            assert more, "Chromium has ended"
            self._rest += more
        text, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(text)
        return found

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true, also across navigations; it is asked ten times a second."""
        for _ in range(int(10 * PATIENCE)):
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except Gone:
                pass
            time.sleep(0.1)
        raise AssertionError(f"never: {condition}")

    def picture(self, path: Path) -> None:
        """The page as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def requests(self) -> list[str]:
        """URLs that the page has asked for so far."""
        self.run("0")
        sent = [one for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in sent]


@contextmanager
def browser(profile: Path, width: int = 1600, height: int = 1000) -> Iterator[Browser]:
    """A headless Chromium with a profile of its own."""
    told, heard = os.pipe(), os.pipe()
    command = ["bash", "-c", _PAIR, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    environment = {**os.environ, "TOLD": f"{told[0]}", "HEARD": f"{heard[1]}"}
    with subprocess.Popen(
        command, pass_fds=(told[0], heard[1]), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(told[0])
        os.close(heard[1])
        try:
            yield Browser(told[1], heard[0])
        finally:
            os.close(told[1])
            process.terminate()
            process.wait(20)
            os.close(heard[0])
