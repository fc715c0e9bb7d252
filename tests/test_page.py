"""A page of the book in a real browser, at the address of Docusaurus: it asks, streams, remembers and shows errors."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from app.models import MessageRole
from tests.conftest import ORIGIN, Serve, Service, running
from tests.fake_openai import FakeOpenAI, cut_stream, failure, question_in, stream
from tests.marks import on_one_database

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SITE = Starlette(routes=[Mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))])

expect.set_options(timeout=20_000)

type Visit = Callable[..., Awaitable[Page]]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    on_one_database,
]


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    """Open the page in a browser of its own, at this address; it asks the service."""
    async with AsyncExitStack() as stack:

        async def open_page(service: Service, origin: str = ORIGIN) -> Page:
            site = socket.create_server(("127.0.0.1", 0))
            await stack.enter_async_context(running(SITE, site))
            playwright = await stack.enter_async_context(async_playwright())
            # The address is the browser's alone: the port that goes with it may be a developer's own.
            rule = f"--host-resolver-rules=MAP localhost 127.0.0.1:{site.getsockname()[1]}"
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[rule])
            stack.push_async_callback(browser.close)
            page = await browser.new_page()
            await page.add_init_script(f"globalThis.CHAT_API = '{str(service.client.base_url).rstrip('/')}'")
            await page.goto(origin)
            return page

        yield open_page


async def ask(page: Page, message: str) -> None:
    await page.get_by_label("Your question").fill(message)
    await page.get_by_role("button", name="Ask").click()


async def test_a_reader_marks_a_passage_asks_and_finds_the_conversation_again(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate), stream("Yes."), stream("It has three."))
    page = await visit(service)
    conversation = page.get_by_role("listitem")

    passage = "Atlas walks on two legs. It weighs 89 kg."
    await page.get_by_text(passage).click(click_count=3)
    await expect(page.get_by_role("blockquote")).to_have_text(passage)
    await ask(page, "How does it walk?")
    await expect(conversation).to_have_text(["How does it walk?", "On two "])
    gate.set()
    await expect(conversation).to_have_text(["How does it walk?", "On two legs."])
    assert passage in model_server.prompt[1]["content"]

    await ask(page, "Is that usual?")
    told = ["How does it walk?", "On two legs.", "Is that usual?", "Yes."]
    await expect(conversation).to_have_text(told)
    await page.reload()
    await expect(conversation).to_have_text(told)

    await ask(page, "And a hexapod?")
    await expect(conversation).to_have_text([*told, "And a hexapod?", "It has three."])
    assert [question_in(m["content"]) for m in model_server.prompt[1:]] == [*told, "And a hexapod?"]
    assert len(await service.tables.sessions()) == 1


async def test_a_reader_is_told_what_went_wrong_and_asks_again(
    serve: Serve, visit: Visit, model_server: FakeOpenAI
) -> None:
    service = await serve(MAX_MESSAGE_CHARS="20")
    model_server.enqueue(failure(500), stream("Half an ", then=cut_stream), stream("It walks."))
    page = await visit(service)
    alert, conversation = page.get_by_role("alert"), page.get_by_role("listitem")

    await ask(page, "x" * 21)
    await expect(alert).to_contain_text("message must not be longer than 20 characters")
    for _ in range(2):
        await ask(page, "How does it walk?")
        await expect(alert).to_contain_text("The assistant could not answer. Please try again.")
        await expect(alert).to_contain_text(service.log("openai.error")[-1]["request_id"])
        await expect(conversation).to_have_count(0)

    await page.get_by_role("button", name="Ask").click()
    await expect(conversation).to_have_text(["How does it walk?", "It walks."])
    await expect(alert).to_be_empty()
    assert [m.role for m in await service.tables.messages()] == [MessageRole.user, MessageRole.assistant]


async def test_a_page_that_is_not_allowed_reaches_nothing(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await visit(service, "http://localhost:3001")

    await ask(page, "How does it walk?")

    await expect(page.get_by_role("alert")).to_contain_text("The assistant cannot be reached.")
    assert model_server.requests == []
    assert await service.tables.sessions() == []
