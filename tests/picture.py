"""Takes the pictures of the widget for the README: a Docusaurus site of the sample book, in light and in dark.

The book, the service, the widget and the browser are real; the model's answer is written here.
"""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from playwright.async_api import Page, expect

from app.dependencies import get_retriever
from app.main import app
from app.retrieval import Passage, Query, Retriever
from tests.browser import INSTALL, SITE, ask, open_chat, readers, running_chromium
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
        chromium = stack.enter_context(running_chromium())
        visit = await stack.enter_async_context(readers(chromium))
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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        build_book(Path(scratch, "book"))
        asyncio.run(take_pictures(Path(scratch, "book"), Path(scratch, "chat.db")))
