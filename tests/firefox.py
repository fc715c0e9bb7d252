"""Firefox, driven over WebDriver BiDi, which it speaks itself.

Playwright needs a Firefox of its own, which no package registry has.
"""

import asyncio
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.patience import PATIENCE_SECONDS

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)

_PREFERENCES = """
user_pref("app.update.auto", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.startup.page", 0);
"""

# Finds what a reader sees by its role and its name, through the widget's shadow root.
_FIND = """
const widget = () => document.querySelector("book-chat").shadowRoot;
const isShown = element => element.checkVisibility();
const button = name => [...widget().querySelectorAll("button")].find(
  element => isShown(element) && (element.getAttribute("aria-label") ?? element.textContent) === name);
const texts = selector => [...widget().querySelectorAll(selector)].filter(isShown).map(element => element.textContent);
const textbox = () => widget().querySelector("textarea");
const write = text => { textbox().value = text; textbox().dispatchEvent(new Event("input")); };
"""


class FirefoxPage:
    """A tab of Firefox."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.context = ""

    async def send(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        number = next(self._ids)
        await self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async for message in self._connection:
            answer = json.loads(message)
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]
        raise ConnectionError

    async def goto(self, url: str) -> None:
        await self.send("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def reload(self) -> None:
        await self.send("browsingContext.reload", context=self.context, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """Return what the JavaScript expression has as its value, as JSON."""
        code = f"(async () => {{ {_FIND} return JSON.stringify(await ({expression})) ?? 'null'; }})()"
        result = await self.send(
            "script.evaluate", expression=code, target={"context": self.context}, awaitPromise=True, userActivation=True
        )
        assert result["type"] == "success", result
        return json.loads(result["result"]["value"])

    async def until(self, expression: str, expected: Any) -> None:
        """Wait until the expression has this value."""
        value: Any = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (value := await self.evaluate(expression)) != expected:  # noqa: ASYNC110  # The browser has no event for it.
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{expression} is {value!r} instead of {expected!r}") from None

    async def click(self, name: str) -> None:
        """Press the button that is called so, once it is there."""
        await self.until(f"Boolean(button({name!r}))", expected=True)
        await self.evaluate(f"button({name!r}).click()")

    async def press(self, key: str) -> None:
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        await self.send(
            "input.performActions", context=self.context, actions=[{"type": "key", "id": "keyboard", "actions": keys}]
        )


@asynccontextmanager
async def running_firefox() -> AsyncIterator[FirefoxPage]:
    """Run Firefox with a profile of its own; gives its tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        await asyncio.to_thread(Path(profile, "user.js").write_text, _PREFERENCES)
        process = await asyncio.create_subprocess_exec(
            str(FIREFOX),
            "--headless",
            "--no-remote",
            "--remote-debugging-port=0",
            "--profile",
            profile,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                address = await _address(process)
            async with connect(f"{address}/session", max_size=None) as connection:
                page = FirefoxPage(connection)
                await page.send("session.new", capabilities={})
                page.context = (await page.send("browsingContext.getTree"))["contexts"][0]["context"]
                yield page
        finally:
            process.kill()
            await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr
    async for line in process.stderr:
        if found := re.search(rb"WebDriver BiDi listening on (\S+)", line):
            return found[1].decode()
    raise RuntimeError("Firefox did not start")
