"""The widget on a page of a book whose policy is the strictest there is: what a reader asks is answered, once, whatever happens."""

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import timedelta

import pytest
from playwright.async_api import Page, Route, expect

from app.models import MessageRole, utc_now
from app.retrieval import Passage, Query
from tests.browser import Relay, Visit, answers, ask, needs_chromium, open_chat, questions, requests_of
from tests.conftest import PlugIn, Serve, Service, eventually
from tests.fake_openai import Exchange, FakeOpenAI, chunk, cut_stream, failure, held, question_in, stream
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS

pytestmark = [needs_chromium, on_one_database]

PASSAGE = "Atlas walks on two legs. It weighs 89 kg."


async def mark(page: Page, text: str) -> None:
    """Select the paragraph that begins like this, as a reader does."""
    await page.locator("article").get_by_text(text).click(click_count=3)


async def answered(service: Service, visit: Visit) -> Page:
    """Ask the first question and return its page, on which the answer is complete."""
    page = await visit(service)
    await open_chat(page)
    await ask(page, "One?")
    await expect(answers(page)).to_have_text("Answer 1 to: One?")
    return page


async def half_answered(service: Service, visit: Visit, model_server: FakeOpenAI) -> tuple[Page, asyncio.Event]:
    """Ask and return the page, on which the answer has begun, and the gate before the rest of it."""
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate))
    page = await visit(service)
    await open_chat(page)
    await ask(page, "How does it walk?")
    await expect(answers(page)).to_have_text("On two")
    return page, gate


async def test_a_reader_marks_a_passage_asks_and_finds_the_conversation_again(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "**legs**.", gate=gate), stream("Yes."), stream("It has three."))
    page = await visit(service)

    bubble = page.get_by_role("button", name="Ask about this")
    await mark(page, "Atlas walks")
    await expect(bubble).to_be_visible()
    await page.get_by_text("Menu of the book").click(click_count=3)
    await expect(bubble).to_be_hidden()
    await mark(page, "Atlas walks")
    await expect(bubble).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(bubble).to_be_hidden()
    await mark(page, "Atlas walks")
    await bubble.click()
    excerpts = page.get_by_role("blockquote")
    await expect(excerpts).to_have_text([PASSAGE])
    await ask(page, "How does it walk?")
    await expect(answers(page)).to_have_text(["On two"])
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    gate.set()
    await expect(answers(page)).to_have_text(["On two legs."])
    assert PASSAGE in model_server.prompt[1]["content"]

    await ask(page, "Is that usual?")
    await expect(answers(page)).to_have_text(["On two legs.", "Yes."])
    await page.reload()
    await expect(questions(page)).to_have_text(["How does it walk?", "Is that usual?"])
    await expect(answers(page)).to_have_text(["On two legs.", "Yes."])
    await expect(excerpts).to_have_text([PASSAGE])

    await ask(page, "And a hexapod?")
    await expect(answers(page).last).to_have_text("It has three.")
    assert [question_in(message["content"]) for message in model_server.prompt[1::2]] == [
        "How does it walk?",
        "Is that usual?",
        "And a hexapod?",
    ]
    [session] = await service.tables.sessions()
    assert session.owner


@pytest.mark.slow
async def test_an_answer_cites_the_passages_that_were_found_for_the_page(
    service: Service, visit: Visit, plug_in: PlugIn, model_server: FakeOpenAI
) -> None:
    pages: list[str | None] = []

    async def retriever(query: Query) -> Sequence[Passage]:
        pages.append(query.page_url)
        return [
            Passage(text="Atlas walks.", source="http://localhost:3000/atlas#legs", title="Atlas / Legs"),
            Passage(text="Spot trots.", source="https://elsewhere.example/spot", title="Spot"),
        ]

    plug_in(retriever)
    model_server.enqueue(stream("It walks [1], or ", "trots [2]. Not [3]."))
    page = await visit(service, path="/part/page?token=secret")
    await open_chat(page)
    await ask(page, "How does it move?")

    sources = page.get_by_role("list", name="Sources").get_by_role("link")
    await expect(sources).to_have_text(["1Atlas / Legs", "2Spot"])
    await expect(sources.first).to_have_attribute("href", "http://localhost:3000/atlas#legs:~:text=Atlas%20walks.")
    inside = page.get_by_role("link", name="Source 1: Atlas / Legs")
    outside = page.get_by_role("link", name="Source 2: Spot")
    await expect(inside).to_have_attribute("href", "http://localhost:3000/atlas#legs:~:text=Atlas%20walks.")
    await expect(outside).to_have_attribute("target", "_blank")
    assert await inside.get_attribute("target") is None
    assert pages == ["http://localhost:3000/part/page"]

    await page.reload()
    await expect(sources).to_have_text(["1Atlas / Legs", "2Spot"])
    await inside.click()
    await expect(page).to_have_url("http://localhost:3000/atlas#legs")
    await expect(answers(page)).to_be_visible()


@pytest.mark.slow
async def test_a_reload_in_the_middle_of_an_answer_asks_once(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page, gate = await half_answered(service, visit, model_server)

    await page.reload()
    await expect(questions(page)).to_have_text(["How does it walk?"])
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    await expect(answers(page)).to_have_text("On two")

    # Once more, while the service is starting and does not answer yet.
    session = await page.evaluate("Object.entries(localStorage).find(([name]) => name.endsWith(' session'))[1]")
    failed = asyncio.Event()
    page.on("requestfailed", lambda request: failed.set() if f"{session}/messages" in request.url else None)
    await page.route("**/messages?*", lambda route: route.abort(), times=1)
    await page.reload()
    await asyncio.wait_for(failed.wait(), PATIENCE_SECONDS)
    gate.set()
    await expect(answers(page)).to_have_text("On two legs.")
    await expect(questions(page)).to_have_text(["How does it walk?"])

    assert len(model_server.requests) == 1
    assert [message.role for message in await service.tables.messages()] == [MessageRole.user, MessageRole.assistant]
    await page.reload()
    await expect(answers(page)).to_have_text("On two legs.")
    await expect(questions(page)).to_have_count(1)


async def test_a_question_is_asked_once_however_often_the_connection_is_lost(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate, end = asyncio.Event(), asyncio.Event()

    async def finish(exchange: Exchange) -> None:
        await end.wait()
        await exchange.event(chunk({}, "stop"))
        await exchange.close()

    model_server.enqueue(stream("On two ", "legs.", gate=gate, then=finish))
    async with Relay(str(service.client.base_url)) as relay:
        page = await visit(relay.url)
        await open_chat(page)
        is_lost = page.get_by_text("The connection was lost. Trying again…")
        relay.down()
        await ask(page, "How does it walk?")
        await expect(is_lost).to_be_visible()
        await expect(page.get_by_text("CORS_ORIGINS")).to_have_count(0)
        await relay.up()
        await expect(answers(page)).to_have_text("On two")

        relay.down()
        await expect(is_lost).to_be_visible()
        gate.set()
        await relay.up()
        await expect(answers(page)).to_have_text("On two legs.")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        end.set()
        await expect(page.get_by_role("button", name="Good answer")).to_be_visible()
        await expect(answers(page)).to_have_text("On two legs.")

    assert len(model_server.requests) == 1
    assert [message.role for message in await service.tables.messages()] == [MessageRole.user, MessageRole.assistant]


async def test_only_a_stream_that_fell_silent_as_after_a_computers_sleep_is_taken_up_again(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gates = {piece: asyncio.Event() for piece in ("On ", "two ", "strong ", "legs.")}

    async def walk(exchange: Exchange) -> None:
        await exchange.start_stream()
        for piece, gate in gates.items():
            await gate.wait()
            await exchange.event(chunk({"content": piece}))
        await exchange.event(chunk({}, "stop"))
        await exchange.close()

    model_server.enqueue(walk)
    page = await visit(service)
    await page.clock.install()
    await page.reload()
    posts = requests_of(page, "chat/stream")

    def keys() -> list[str]:
        return [request.headers["idempotency-key"] for request in posts if request.method == "POST"]

    await open_chat(page)
    await ask(page, "How does it walk?")
    for piece, shown in (("On ", "On"), ("two ", "On two"), ("strong ", "On two strong")):
        gates[piece].set()
        await expect(answers(page)).to_have_text(shown)
        await page.clock.fast_forward(20_000)
    assert len(keys()) == 1

    await page.clock.fast_forward(20_000)
    await expect(page.get_by_text("The connection was lost. Trying again…")).to_be_visible()
    await page.clock.fast_forward(1_000)
    gates["legs."].set()
    await expect(answers(page)).to_have_text("On two strong legs.")
    first, second = keys()
    assert first == second
    assert len(model_server.requests) == 1


@pytest.mark.slow
async def test_a_conversation_that_cannot_be_loaded_is_loaded_at_the_second_try(service: Service, visit: Visit) -> None:
    page = await answered(service, visit)

    error = {"code": "database_error", "message": "The database is away.", "request_id": "1"}
    headers = {"Access-Control-Allow-Origin": "*"}
    released = asyncio.Event()

    async def fail_later(route: Route) -> None:
        await released.wait()
        await route.fulfill(status=503, json={"error": error}, headers=headers)

    await page.route("**/messages?*", fail_later)
    await page.reload()
    await expect(page.get_by_text("Loading the conversation…")).to_be_visible()
    released.set()
    await expect(page.get_by_role("alert")).to_have_text("The conversation could not be loaded.")
    await page.unroute_all()
    await page.get_by_role("button", name="Retry").click()
    await expect(answers(page)).to_have_text("Answer 1 to: One?")


@pytest.mark.slow
async def test_a_reader_without_a_network_is_told_and_answered_when_it_is_back(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    await page.context.set_offline(True)
    await ask(page, "How does it walk?")
    await expect(page.get_by_text("You are offline.")).to_be_visible()

    await page.context.set_offline(False)
    await expect(answers(page)).to_have_text("Answer 1 to: How does it walk?")


@pytest.mark.slow
async def test_a_question_that_failed_can_be_asked_again(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(failure(500), stream("Half an ", then=cut_stream), stream("It walks."))
    page = await visit(service)
    await open_chat(page)

    await ask(page, "How does it walk?")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("The assistant could not answer. Please try again.")
    await expect(alert).to_contain_text(service.log("openai.error")[-1]["request_id"])
    await page.get_by_role("button", name="Retry").click()
    await expect(answers(page)).to_have_text("Half an")
    await expect(alert).to_contain_text("The assistant could not answer. Please try again.")

    # After a reload it is not asked unbidden, and still there to be asked again.
    await page.reload()
    await expect(page.get_by_text("This question was not answered.")).to_be_visible()
    assert len(model_server.requests) == 2
    await page.get_by_role("button", name="Retry").click()
    await expect(answers(page)).to_have_text("It walks.")
    await expect(questions(page)).to_have_text(["How does it walk?"])
    assert [message.role for message in await service.tables.messages()] == [MessageRole.user, MessageRole.assistant]

    # Whoever asks something else instead finds it unanswered.
    model_server.enqueue(failure(500), stream("Yes."))
    await ask(page, "Always?")
    await expect(alert).to_be_visible()
    await ask(page, "Does it run?")
    await expect(answers(page).last).to_have_text("Yes.")
    await page.reload()
    await expect(questions(page)).to_have_text(["How does it walk?", "Always?", "Does it run?"])
    await expect(page.get_by_text("This question was not answered.")).to_be_visible()
    await expect(page.get_by_role("button", name="Retry")).to_have_count(0)


@pytest.mark.slow
async def test_a_question_that_failed_can_be_asked_again_a_day_later(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(failure(500))
    page = await visit(service)
    await open_chat(page)
    await ask(page, "How does it walk?")
    await expect(page.get_by_role("alert")).to_be_visible()

    await page.clock.set_fixed_time(utc_now() + timedelta(days=1))
    await page.reload()
    await page.get_by_role("button", name="Retry").click()
    await expect(answers(page)).to_have_text("Answer 2 to: How does it walk?")
    await expect(questions(page)).to_have_count(1)


@pytest.mark.slow
async def test_a_question_that_is_too_long_comes_back_to_be_shortened(serve: Serve, visit: Visit) -> None:
    service = await serve(MAX_MESSAGE_CHARS="20")
    page = await visit(service)
    await open_chat(page)

    await ask(page, "x" * 21)

    await expect(page.get_by_role("alert")).to_contain_text("message must not be longer than 20 characters")
    await expect(page.get_by_role("textbox")).to_have_value("x" * 21)
    await expect(page.get_by_role("button", name="Retry")).to_have_count(0)


@pytest.mark.slow
async def test_a_reader_who_asks_too_often_sees_when_to_ask_again(serve: Serve, visit: Visit) -> None:
    service = await serve(RATE_LIMIT="1/2second")
    page = await answered(service, visit)

    await ask(page, "Two?")
    await expect(page.get_by_role("alert")).to_contain_text("You are asking too often.")
    await expect(page.get_by_role("timer")).to_contain_text("You can ask again in")
    retry = page.get_by_role("button", name="Retry")
    await expect(retry).to_be_disabled()
    await expect(page.get_by_role("timer")).to_have_text("You can ask again now.")
    await retry.click()
    await expect(answers(page).last).to_have_text("Answer 2 to: Two?")


@pytest.mark.slow
async def test_a_busy_service_is_asked_again(serve: Serve, visit: Visit, model_server: FakeOpenAI) -> None:
    service = await serve(MAX_CONCURRENT_TURNS="1")
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    page = await visit(service)
    await open_chat(page)
    other = asyncio.create_task(service.chat("Somebody else's question"))
    await model_server.wait_for_requests(1)

    await ask(page, "How does it walk?")
    await expect(page.get_by_text("The assistant is busy. Trying again…")).to_be_visible()
    gate.set()
    await expect(answers(page)).to_have_text("Answer 2 to: How does it walk?")
    await other


@pytest.mark.slow
async def test_a_question_that_another_process_answers_is_waited_for_and_a_key_that_is_refused_is_replaced(
    service: Service, visit: Visit
) -> None:
    page = await visit(service)
    keys = requests_of(page, "chat/stream")
    headers = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After", "Retry-After": "1"}

    async def refuse_once(code: str) -> None:
        error = {"code": code, "message": "No.", "request_id": "1"}
        await page.route(
            "**/chat/stream", lambda route: route.fulfill(status=409, json={"error": error}, headers=headers), times=1
        )

    await open_chat(page)
    await refuse_once("turn_in_progress")
    await ask(page, "How does it walk?")
    await expect(page.get_by_text("The answer is being written…")).to_be_visible()
    await expect(answers(page)).to_have_text("Answer 1 to: How does it walk?")

    await refuse_once("idempotency_conflict")
    await ask(page, "And a hexapod?")
    await expect(answers(page).last).to_have_text("Answer 2 to: And a hexapod?")
    first, again, refused, replaced = [
        request.headers["idempotency-key"] for request in keys if request.method == "POST"
    ]
    assert first == again
    assert len({again, refused, replaced}) == 3


@pytest.mark.slow
async def test_a_conversation_that_was_deleted_is_begun_anew(service: Service, visit: Visit) -> None:
    page = await answered(service, visit)

    await service.tables.clear()
    await ask(page, "Two?")
    await expect(answers(page).last).to_have_text("Answer 2 to: Two?")
    await expect(page.get_by_text("The earlier conversation no longer exists.")).to_be_visible()

    await service.tables.clear()
    await page.reload()
    await expect(page.get_by_text("The earlier conversation no longer exists.")).to_be_visible()
    await expect(questions(page)).to_have_count(0)
    await ask(page, "Three?")
    await expect(answers(page)).to_have_text("Answer 3 to: Three?")


async def test_a_stopped_answer_is_finished_and_can_be_shown(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page, gate = await half_answered(service, visit, model_server)

    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("Stopped.")).to_be_visible()
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    gate.set()

    async def is_recorded() -> bool:
        return await service.tables.replies() == ["On two legs."]

    await eventually(is_recorded)
    await expect(answers(page)).to_have_text("On two")
    await page.get_by_role("button", name="Retry").click()
    await expect(answers(page)).to_have_text("On two legs.")
    assert len(model_server.requests) == 1


@pytest.mark.slow
async def test_a_new_conversation_leaves_the_old_one_also_in_mid_answer(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await answered(service, visit)

    await page.get_by_role("button", name="New conversation").click()
    await expect(questions(page)).to_have_count(0)
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate))
    await ask(page, "Two?")
    await expect(answers(page)).to_have_text("On two")
    assert len(await service.tables.sessions()) == 2
    assert "One?" not in json.dumps(model_server.prompt)

    await page.get_by_role("button", name="New conversation").click()
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    await page.reload()
    await expect(page.get_by_text("What would you like to know?")).to_be_visible()
    await expect(questions(page)).to_have_count(0)
    gate.set()


@pytest.mark.slow
async def test_a_reader_deletes_all_conversations(service: Service, visit: Visit, model_server: FakeOpenAI) -> None:
    page = await visit(service)
    await open_chat(page)
    await expect(page.get_by_role("button", name="Delete my conversations")).to_have_count(0)
    await ask(page, "One?")
    await expect(answers(page)).to_have_text("Answer 1 to: One?")
    await page.get_by_role("button", name="New conversation").click()
    await ask(page, "Two?")
    await expect(answers(page)).to_have_text("Answer 2 to: Two?")
    token = await page.evaluate("Object.entries(localStorage).find(([key]) => key.endsWith('reader'))[1]")

    await page.get_by_role("button", name="Delete my conversations").click()
    await page.get_by_role("button", name="Keep").click()
    assert len(await service.tables.sessions()) == 2
    await page.get_by_role("button", name="Delete my conversations").click()
    await page.get_by_role("button", name="Delete", exact=True).click()

    await expect(page.get_by_text("Your conversations were deleted.")).to_be_visible()
    await expect(questions(page)).to_have_count(0)
    assert await service.tables.sessions() == []
    await expect(page.get_by_role("button", name="Delete my conversations")).to_have_count(0)
    assert token not in str(await page.evaluate("Object.entries(localStorage)"))
    await ask(page, "Three?")
    await expect(answers(page)).to_have_text("Answer 3 to: Three?")


@pytest.mark.slow
async def test_what_could_not_be_deleted_is_kept_and_said(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await answered(service, visit)
    await page.route("**/chat", lambda route: route.abort())

    await page.get_by_role("button", name="Delete my conversations").click()
    await page.get_by_role("button", name="Delete", exact=True).click()

    await expect(page.get_by_text("Your conversations could not be deleted.")).to_be_visible()
    await expect(page.get_by_role("button", name="Delete my conversations")).to_be_focused()
    await expect(answers(page)).to_have_text("Answer 1 to: One?")


@pytest.mark.slow
async def test_two_tabs_show_the_same_conversation(service: Service, visit: Visit, model_server: FakeOpenAI) -> None:
    first = await visit(service)
    await open_chat(first)
    await ask(first, "One?")
    await expect(answers(first)).to_have_text("Answer 1 to: One?")
    second = await visit(service, context=first.context)
    await open_chat(second)
    await expect(answers(second)).to_have_text("Answer 1 to: One?")

    await ask(second, "Two?")
    await expect(answers(second).last).to_have_text("Answer 2 to: Two?")
    await expect(answers(first)).to_have_text(["Answer 1 to: One?", "Answer 2 to: Two?"])
    await ask(first, "Three?")
    await expect(answers(second).last).to_have_text("Answer 3 to: Three?")
    assert len(model_server.requests) == 3
    assert len(await service.tables.sessions()) == 1


@pytest.mark.slow
async def test_a_long_conversation_is_read_back_from_its_end(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    await ask(page, "Question 0")
    await expect(answers(page)).to_have_text("Answer 1 to: Question 0")
    [session] = await service.tables.sessions()
    token = await page.evaluate("Object.entries(localStorage).find(([name]) => name.endsWith(' reader'))[1]")
    for number in range(1, 25):
        await service.client.post(
            "/chat",
            json={"message": f"Question {number}", "session_id": str(session.id)},
            headers={"X-Reader-Token": token},
        )
    await page.reload()

    await expect(questions(page)).to_have_text([f"Question {number}" for number in range(5, 25)])
    await expect(questions(page).last).to_be_in_viewport()
    await page.get_by_role("button", name="Earlier messages").click()
    await expect(questions(page)).to_have_text([f"Question {number}" for number in range(25)])
    await expect(page.get_by_role("button", name="Earlier messages")).to_have_count(0)


@pytest.mark.slow
async def test_a_browser_that_forbids_storage_still_has_a_conversation(service: Service, visit: Visit) -> None:
    for storage in ("localStorage", "sessionStorage"):
        await service.tables.clear()
        page = await visit(
            service,
            script=f"Object.defineProperty(window, '{storage}', {{ get() {{ throw new DOMException('No', 'SecurityError') }} }})",
        )
        await open_chat(page)
        await ask(page, "One?")
        await expect(answers(page)).to_have_text(re.compile(r"Answer \d to: One\?"))
        await ask(page, "Two?")
        await expect(answers(page).last).to_have_text(re.compile(r"Answer \d to: Two\?"))
        assert len(await service.tables.sessions()) == 1


async def test_a_page_that_is_not_allowed_is_told_so(service: Service, visit: Visit, model_server: FakeOpenAI) -> None:
    page = await visit(service, origin="http://localhost:3001")
    await open_chat(page)

    await ask(page, "How does it walk?")

    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("http://localhost:3001")
    await expect(alert).to_contain_text("CORS_ORIGINS")
    assert model_server.requests == []


@pytest.mark.slow
async def test_a_reader_says_what_they_think_of_an_answer(service: Service, visit: Visit) -> None:
    page = await visit(service, viewport={"width": 400, "height": 420})
    await open_chat(page)
    await ask(page, "How does it walk?")
    await page.get_by_role("button", name="Bad answer").click()
    # All reasons are seen, although the answer ends at the lower edge.
    await expect(page.get_by_role("button", name="Something else…")).to_be_in_viewport(ratio=1)
    await page.get_by_role("button", name="Incorrect").click()
    await expect(page.get_by_text("Thank you for your feedback.")).to_be_visible()
    await expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    await page.reload()
    await expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")

    await page.get_by_role("button", name="Good answer").click()
    await page.get_by_role("button", name="Something else…").click()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Something else…").click()
    await expect(page.get_by_role("textbox")).to_have_accessible_name("Your reason")
    await page.get_by_role("textbox").fill("I had overlooked something.")
    await page.get_by_role("button", name="Submit").click()
    await expect(page.get_by_text("Thank you for your feedback.")).to_be_visible()
    await expect(page.get_by_role("textbox")).to_have_accessible_name("Your question")
    [_, answer] = await service.tables.messages()
    assert (answer.feedback, answer.feedback_comment) == ("positive", "I had overlooked something.")


async def test_a_rating_that_could_not_be_saved_is_not_shown_as_given(service: Service, visit: Visit) -> None:
    page = await answered(service, visit)
    await page.route("**/feedback", lambda route: route.abort())

    await page.get_by_role("button", name="Bad answer").click()

    await expect(page.get_by_role("alert")).to_contain_text("Your feedback could not be saved.")
    await expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "false")

    await page.route("**/chat", lambda route: route.abort(), times=1)
    offer = page.get_by_role("button", name="Delete my conversations")
    await offer.click()
    await expect(page.get_by_role("button", name="Keep")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(offer).to_be_focused()
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_text("Your conversations could not be deleted.")).to_be_visible()
    await expect(offer).to_be_focused()
    await expect(answers(page)).to_have_text("Answer 1 to: One?")

    await offer.click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_text("Your conversations were deleted.")).to_be_visible()
    await expect(questions(page)).to_have_count(0)
    await expect(offer).to_have_count(0)
    assert await service.tables.sessions() == []
