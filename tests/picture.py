"""Takes the pictures of the widget: for the README a Docusaurus site of the sample book, and for its options sites of other makes.

The book, the service, the widget and the browser are real; the model's answer is written here.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from playwright.async_api import Page, expect

from app.dependencies import get_retriever
from app.main import app
from app.retrieval import Passage, Query, Retriever
from tests import sites
from tests.browser import INSTALL, SITE, Visit, ask, open_chat, readers, running_browser
from tests.conftest import API_KEY, ORIGIN, ROOT, running_service
from tests.fake_openai import FakeOpenAI, stream

QUESTION = "How many solutions does this arm have?"
ANSWER = r"""At most **two**: the elbow can point up or down [1]. With a stretched arm there is one, and out of reach there is none.

For two links there is a formula [1]:

$$
q_2 = \arccos \frac{x^2 + y^2 - l_1^2 - l_2^2}{2\, l_1 l_2}
$$

Near a singularity the joints would have to turn very fast, so a planner keeps away from it [2].
"""
PASSAGES = [
    Passage(
        text="There may be several answers, one, or none.",
        source=f"{ORIGIN}/moving/kinematics#inverse-kinematics",
        title="Kinematics › Inverse kinematics",  # noqa: RUF001  # As the titles of chunks are written.
    ),
    Passage(
        text="Near a singularity the joints turn fast.",
        source=f"{ORIGIN}/moving/kinematics#singularities",
        title="Kinematics › Singularities",  # noqa: RUF001
    ),
]


class Option(NamedTuple):
    """A picture of an option: on which site, and what is done before it is taken."""

    name: str
    site: str
    attributes: str
    act: Callable[[Page], Awaitable[object]]
    scheme: str = "light"


async def select_text(page: Page) -> None:
    """Select a paragraph."""
    await page.get_by_text("The angles of the joints").click(click_count=3, position={"x": 5, "y": 5})
    await expect(page.get_by_role("button", name="Ask about this")).to_be_visible()


async def ask_for_the_reader(page: Page) -> None:
    """Do what a button of the page does."""
    await page.evaluate("document.querySelector('book-chat').open({ question: 'What is a joint?' })")
    await expect(page.get_by_role("textbox", name="Your question")).to_have_value("What is a joint?")


async def open_it(page: Page) -> None:
    """Open the chat."""
    await page.get_by_role("button").filter(has_text="Ask").last.click()
    await expect(page.get_by_role("textbox", name="Your question")).to_be_visible()


async def see_it_open(page: Page) -> None:
    """Do nothing."""
    await expect(page.get_by_role("textbox", name="Your question")).to_be_visible()


OPTIONS = [
    Option(
        "questions", "furo", 'data-title="Ask the robots" data-questions="What is a joint?|What keeps it up?"', open_it
    ),
    Option("position", "material", 'data-position="left"', lambda page: page.wait_for_timeout(500)),
    Option("open", "furo", 'data-open data-shortcut="Mod+Shift+K"', see_it_open),
    Option("selection", "pydata", "", select_text),
    Option("question", "vitepress", "", ask_for_the_reader, scheme="dark"),
]


async def take_options(service: str, visit: Visit, scratch: Path) -> None:
    """Take a picture of each option."""
    for option in OPTIONS:
        folder = scratch / option.name
        shutil.copytree(sites.built(option.site), folder)
        for file in folder.rglob("*.html"):
            html = file.read_text()
            file.write_text(
                html.replace('src="http://widget.invalid', f'{option.attributes} src="http://widget.invalid')
            )
        page: Page = await visit(
            service, origin=ORIGIN, files=folder, color_scheme=option.scheme, viewport={"width": 1100, "height": 640}
        )
        await option.act(page)
        await page.screenshot(path=ROOT / "docs" / f"widget-{option.name}.png")


async def find_passages(_query: Query) -> Sequence[Passage]:
    """Find what the answer cites."""
    return PASSAGES


async def get_passages_retriever() -> Retriever:
    """Return the retriever of the pictures."""
    return find_passages


def build_book(folder: Path) -> None:
    """Build the sample book with Docusaurus."""
    if not (SITE / "node_modules").exists():
        subprocess.run(["npm", *INSTALL], cwd=SITE, check=True)
    environment = {**os.environ, "BOOK": str(ROOT / "sample-book" / "docs")}
    subprocess.run(["npx", "docusaurus", "build", "--out-dir", folder], cwd=SITE, env=environment, check=True)


async def take_pictures(book: Path, database: Path) -> None:
    """Ask, and take a picture of each colour scheme."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(FakeOpenAI().serve())
        os.environ |= {
            "DATABASE_URL": f"sqlite+aiosqlite:///{database}",
            "OPENAI_API_KEY": API_KEY,
            "OPENAI_BASE_URL": model.url,
        }
        app.dependency_overrides[get_retriever] = get_passages_retriever
        service = await stack.enter_async_context(running_service())
        browser = await stack.enter_async_context(running_browser())
        visit = await stack.enter_async_context(readers(browser))
        for scheme in ("light", "dark"):
            model.enqueue(stream(ANSWER))
            page: Page = await visit(
                service,
                origin=ORIGIN,
                path="/moving/kinematics",
                files=book,
                color_scheme=scheme,
                viewport={"width": 1280, "height": 760},
                device_scale_factor=1.5,
                reduced_motion="reduce",
            )
            await open_chat(page)
            await ask(page, QUESTION)
            await expect(page.get_by_role("button", name="Good answer")).to_be_visible()
            await expect(page.locator("book-chat math")).to_be_visible()
            await page.get_by_role("textbox").blur()
            await page.screenshot(path=ROOT / "docs" / f"widget-{scheme}.png")
            if scheme == "light":
                await take_arrangements(page)
        await take_options(service, visit, database.parent)


async def take_arrangements(page: Page) -> None:
    """Take a picture of a source's passage, and one of the chat beside the text."""
    number = page.get_by_role("link", name="Source 2")
    await number.hover()
    await expect(page.get_by_role("tooltip")).to_be_visible()
    await page.get_by_role("dialog").screenshot(path=ROOT / "docs" / "widget-passage.png")
    await page.mouse.move(0, 0)
    await expect(page.get_by_role("tooltip")).to_be_hidden()
    await page.get_by_role("button", name="More", exact=True).click()
    await page.get_by_role("menuitem", name="Beside the page").click()
    await page.screenshot(path=ROOT / "docs" / "widget-beside.png")
    await page.get_by_role("button", name="More", exact=True).click()
    await page.get_by_role("menuitem", name="Over the page").click()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        build_book(Path(scratch, "book"))
        asyncio.run(take_pictures(Path(scratch, "book"), Path(scratch, "chat.db")))
