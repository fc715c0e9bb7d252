"""The widget in the oldest Chrome that it promises to work in: a whole conversation, with nothing missing."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser import BRIGHTNESS, Browser, answers, ask, becomes, questions, readers, running_browser
from tests.conftest import ORIGIN, Service
from tests.fake_openai import FakeOpenAI, failure, stream
from tests.marks import on_one_database
from tests.sites import npm_packages

pytestmark = [on_one_database, pytest.mark.slow, pytest.mark.timeout(400)]

UNPACK = """
const { brotliDecompressSync } = require("node:zlib");
const { readFileSync, writeFileSync } = require("node:fs");
const [packed, program] = process.argv.slice(1);
writeFileSync(program, brotliDecompressSync(readFileSync(packed)), { mode: 0o755 });
"""


@pytest.fixture
async def chrome109(tmp_path: Path) -> AsyncIterator[Browser]:
    """Chrome 109, out of its npm package."""
    packed = npm_packages("chrome109") / "@sparticuz" / "chromium" / "bin" / "chromium.br"
    program = tmp_path / "chrome"
    unpack = ["node", "-e", UNPACK, str(packed), str(program)]
    await asyncio.to_thread(lambda: subprocess.run(unpack, check=True, timeout=300))
    async with running_browser(program) as browser:
        yield browser


async def test_a_reader_asks_about_a_passage_in_chrome_109(
    service: Service, chrome109: Browser, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream("On **two** ", "legs: $x^2$."), failure(500), stream("Yes."))
    async with readers(chrome109) as visit:
        page = await visit(str(service.client.base_url).rstrip("/"), origin=ORIGIN, color_scheme="light")
        assert "Chrome/109." in await page.evaluate("navigator.userAgent")
        await page.get_by_text("Atlas walks").click(click_count=3)
        await page.get_by_role("button", name="Ask about this").click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        await becomes(page, f"{BRIGHTNESS} > 240")
        await ask(page, "How does it walk?")
        await expect(page.get_by_role("button", name="Good answer")).to_be_visible()
        await expect(answers(page).locator("msup")).to_have_count(1)
        send = page.get_by_role("button", name="Send")
        await page.get_by_role("textbox").fill("Always?")
        assert await send.evaluate("send => getComputedStyle(send).backgroundColor") == "rgb(31, 111, 235)"

        await send.click()
        await page.get_by_role("button", name="Retry").click()
        await expect(answers(page).last).to_have_text("Yes.")
        await page.reload()
        await expect(questions(page)).to_have_text(["How does it walk?", "Always?"])
        await page.get_by_role("button", name="Close").click()
        await page.set_viewport_size({"width": 390, "height": 740})
        await page.get_by_role("button", name="Ask the book").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        assert await dialog.evaluate("dialog => dialog.matches(':modal')")
        await expect(page.get_by_role("textbox")).to_be_in_viewport(ratio=1)
