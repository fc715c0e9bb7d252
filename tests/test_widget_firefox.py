"""The widget in Firefox, as far as browsers differ: modules, streams, storage, selections, policies, the dialog."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from app.models import MessageRole
from tests.browser import BOOK, strict_policy
from tests.conftest import Serve, running
from tests.fake_openai import FakeOpenAI, failure, stream
from tests.firefox import FIREFOX, FirefoxPage, running_firefox
from tests.marks import on_one_database

pytestmark = [
    pytest.mark.skipif(FIREFOX is None, reason="Firefox is not installed"),
    on_one_database,
    pytest.mark.slow,
]

PASSAGE = "The force is $F = ma$, said Newton."


@pytest.fixture
async def firefox() -> AsyncIterator[FirefoxPage]:
    """A tab of a Firefox of its own."""
    async with running_firefox() as page:
        yield page


async def test_a_reader_asks_about_a_passage_reloads_in_mid_answer_and_tries_again(
    serve: Serve, firefox: FirefoxPage, model_server: FakeOpenAI
) -> None:
    async def book(request: Request) -> HTMLResponse:
        address = request.query_params["service"]
        html = f'<!doctype html><html lang="en"><title>Book</title><script type="module" src="{address}/widget.js"></script>{BOOK}'
        return HTMLResponse(html, headers={"Content-Security-Policy": strict_policy(address)})

    gate = asyncio.Event()
    model_server.enqueue(stream("On **two** legs, ", "$x^2$.", gate=gate), failure(500), stream("Yes."))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://localhost:{listener.getsockname()[1]}"
        service = await serve(CORS_ORIGINS=origin)
        address = str(service.client.base_url).rstrip("/")
        async with running(Starlette(routes=[Route("/", book)]), listener):
            await firefox.goto(f"{origin}/?service={address}")
            await _ask_and_reload(firefox, gate)
            await _use_it(firefox)

    questions = [message for message in await service.tables.messages() if message.role is MessageRole.user]
    assert [question.selected_text for question in questions] == [PASSAGE, None]
    assert len(model_server.requests) == 3
    assert PASSAGE in json.dumps(model_server.requests[0], ensure_ascii=False)


async def _ask_and_reload(page: FirefoxPage, gate: asyncio.Event) -> None:
    await page.until("Boolean(button('Ask the book'))", expected=True)
    await page.evaluate("globalThis.broken = []")
    await page.evaluate("addEventListener('securitypolicyviolation', event => broken.push(event.violatedDirective))")
    await page.evaluate("getSelection().selectAllChildren(document.getElementById('formula'))")
    await page.click("Ask about this")
    await page.until("texts('.chosen blockquote')", [PASSAGE])
    await page.evaluate("write('What is m?')")
    await page.click("Send")
    await page.until("texts('.answer')", ["On two legs,"])
    assert await page.evaluate("broken") == []

    await page.reload()
    await page.until("texts('.question > p')", ["What is m?"])
    await page.until("Boolean(button('Stop'))", expected=True)
    gate.set()
    await page.until("Boolean(button('Good answer'))", expected=True)
    await page.until("texts('.answer strong')", ["two"])
    await page.until("widget().querySelectorAll('.answer math msup').length", 1)


async def _use_it(page: FirefoxPage) -> None:
    await page.evaluate("textbox().focus()")
    await page.evaluate("write('Really?')")
    await page.press("\ue007")
    await page.until("texts('[role=alert] p')", ["The assistant could not answer. Please try again."])
    await page.click("Retry")
    await page.until("texts('.answer').at(-1)", "Yes.")
    await page.evaluate("textbox().focus()")
    await page.press("\ue00c")
    await page.until("widget().querySelector('dialog').open", expected=False)
    await page.until("widget().activeElement === button('Ask the book')", expected=True)

    await page.send("browsingContext.setViewport", context=page.context, viewport={"width": 390, "height": 700})
    await page.click("Ask the book")
    await page.until("widget().querySelector('dialog').matches(':modal')", expected=True)
    await page.until("widget().querySelector('dialog').getBoundingClientRect().width", 390)
