"""What the widget offers a reader beyond one answer: earlier conversations, the page as a subject, passages, and a panel to one's liking."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from app.retrieval import Passage, Query
from tests.browser import Visit, accessibility_findings, answers, ask, needs_chromium, open_chat, questions, requests_of
from tests.conftest import READERS_TOKEN, PlugIn, Serve, Service
from tests.fake_openai import FakeOpenAI, held, stream
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS
from tests.test_widget_interface import drawn, needs_axe

pytestmark = [needs_chromium, on_one_database]


@pytest.mark.slow
@needs_axe
async def test_earlier_conversations_are_found_opened_and_continued(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    listed = page.get_by_role("button", name="Conversations", exact=True)
    await listed.click()
    await expect(page.get_by_text("You have no conversations yet.")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(listed).to_be_focused()
    await ask(page, "What is a joint?")
    await expect(answers(page)).to_have_text("Answer 1 to: What is a joint?")
    await page.get_by_role("button", name="New conversation").click()
    await ask(page, "What is a leg?")
    await expect(answers(page)).to_have_text("Answer 2 to: What is a leg?")

    await listed.click()
    entries = page.get_by_role("list", name="Conversations").get_by_role("button")
    await expect(entries).to_contain_text(["What is a leg?", "What is a joint?"])
    await expect(page.get_by_role("textbox", name="Your question")).to_be_hidden()
    assert await accessibility_findings(page, "book-chat") == []
    await page.get_by_role("searchbox").fill("JOINT")
    await expect(entries).to_contain_text(["What is a joint?"])
    await expect(entries).to_have_count(1)
    await page.get_by_role("searchbox").fill("elbow")
    await expect(page.get_by_text("No conversation has these words.")).to_be_visible()
    await page.get_by_role("searchbox").fill("joint")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_have_text("Answer 1 to: What is a joint?")

    await ask(page, "And then?")
    await expect(questions(page)).to_have_text(["What is a joint?", "And then?"])
    await expect(answers(page).last).to_have_text("Answer 3 to: And then?")
    assert len(await service.tables.sessions()) == 2
    await page.reload()
    await expect(questions(page)).to_have_text(["What is a joint?", "And then?"])


async def hold_next(page: Page, url: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the next request to such an address up; gives the event of its beginning, and the one that lets it go on."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        begun.set()
        await gate.wait()
        await route.continue_()

    await page.route(url, hold, times=1)
    return begun, gate


@pytest.mark.slow
async def test_what_is_asked_while_a_conversation_is_read_back_or_left_is_answered_where_it_was_asked(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await two_conversations(service, visit)
    begun, gate = await hold_next(page, "**/messages?*")
    await choose(page, "What is a joint?")
    await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)
    await ask(page, "And then?")
    # It is read back anew once the answer is there, whatever becomes of the first attempt.
    await expect(answers(page)).to_have_text(["Answer 1 to: What is a joint?", "Answer 3 to: And then?"])
    gate.set()
    await expect(questions(page)).to_have_text(["What is a joint?", "And then?"])
    async with page.expect_request("**/feedback") as rated:
        await page.get_by_role("button", name="Good answer").last.click()
    session = await session_in(page)
    assert f"/chat/{session}/messages/" in (await rated.value).url

    # Who goes elsewhere finds on their return what was to be asked next.
    half = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=half))
    await ask(page, "How?")
    await expect(answers(page).last).to_have_text("On two")
    await ask(page, "Why?")
    await choose(page, "What is a leg?")
    await expect(answers(page)).to_have_text(["Answer 2 to: What is a leg?"])
    half.set()
    await choose(page, "What is a joint?")
    await expect(answers(page)).to_have_text(
        ["Answer 1 to: What is a joint?", "Answer 3 to: And then?", "On two legs.", "Answer 5 to: Why?"]
    )
    assert len(model_server.requests) == 5

    # A conversation that has not begun cannot be opened again.
    await page.get_by_role("button", name="New conversation").click()
    await page.route("**/chat/stream", lambda route: route.abort())
    await ask(page, "Lost?")
    await expect(page.get_by_text("The connection was lost.")).to_be_visible()
    await choose(page, "What is a leg?")
    await expect(answers(page)).to_have_text(["Answer 2 to: What is a leg?"])
    await expect(page.get_by_role("textbox")).to_have_value("Lost?")


@pytest.mark.slow
async def test_what_is_being_answered_stays_in_its_conversation_in_every_tab(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await two_conversations(service, visit)
    half = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=half))
    await ask(page, "How?")
    await expect(answers(page).last).to_have_text("On two")

    # A reload, and another conversation is chosen before this one is read back.
    begun = asyncio.Event()

    async def drop(route: Route) -> None:
        begun.set()

    await page.route("**/messages?*", drop, times=1)
    await page.reload()
    await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)
    await choose(page, "What is a joint?")
    await expect(questions(page)).to_have_text(["What is a joint?"])
    await choose(page, "What is a leg?")
    await expect(questions(page)).to_have_text(["What is a leg?", "How?"])
    await expect(answers(page).last).to_have_text("On two")
    leg = await session_in(page)

    second = await visit(service, context=page.context)
    await open_chat(second)
    await choose(second, "What is a joint?")
    await expect(questions(second)).to_have_text(["What is a joint?"])
    joint = await session_in(second)
    assert joint != leg
    half.set()
    # Both tabs show what was chosen last.
    for tab in (page, second):
        await expect(answers(tab)).to_have_text(["Answer 1 to: What is a joint?"])
        await expect(page.get_by_text("The earlier conversation no longer exists.")).to_have_count(0)
    assert await session_in(page) == joint
    await choose(second, "What is a leg?")
    for tab in (page, second):
        await expect(answers(tab)).to_have_text(["Answer 2 to: What is a leg?", "On two legs."])
    assert len(model_server.requests) == 3


async def test_a_conversation_that_begins_leaves_the_reader_where_another_tab_has_gone(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    kept = f"book-chat {str(service.client.base_url).rstrip('/')}/"
    page = await visit(service, script=f"localStorage['{kept} reader'] = '{READERS_TOKEN}'")
    service.client.headers["X-Reader-Token"] = READERS_TOKEN
    joint = (await service.chat("What is a joint?")).json()["session_id"]
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    await open_chat(page)
    await ask(page, "What is a leg?")
    await model_server.wait_for_requests(2)

    second = await visit(service, context=page.context)
    await second.evaluate("([name, session]) => localStorage[name] = session", [f"{kept} session", joint])
    await expect(questions(page)).to_have_text(["What is a leg?"])
    gate.set()

    await expect(questions(page)).to_have_text(["What is a joint?"])
    assert await session_in(page) == joint
    assert len(await service.tables.sessions()) == 2


@pytest.mark.slow
async def test_the_subject_and_the_focus_outlive_what_happens_to_the_panel(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    follow_ups = "\n<follow-ups>\nWhat is a hexapod?\n</follow-ups>"
    half = asyncio.Event()
    model_server.enqueue(stream("A or B?", follow_ups), stream("Six ", "legs.", follow_ups, gate=half), stream("Yes."))
    forbidden = (
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('No', 'SecurityError') } })"
    )
    page = await visit(service, script=forbidden)
    made = requests_of(page, "chat/stream")
    await open_chat(page)
    await page.get_by_role("button", name="Quiz me").click()
    await expect(answers(page)).to_have_text("A or B?")
    await choose(page, "Quiz me")
    suggested = page.get_by_role("group", name="Ask next").get_by_role("button")
    await suggested.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("textbox")).to_be_focused()
    await ask(page, "Always?")
    half.set()
    await expect(answers(page)).to_have_text(["A or B?", "Six legs.", "Yes."])
    await expect(suggested).to_have_count(0)
    assert [json.loads(request.post_data or "").get("scope") for request in made] == ["page"] * 3

    await page.route("**/languages/ur.js", lambda route: route.abort(), times=1)
    await page.evaluate("document.documentElement.lang = 'ur'")
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.evaluate("document.documentElement.lang = 'en'")
    await open_chat(page)
    await expect(page.get_by_text("This page: Humanoid robots")).to_be_visible()
    await expect(answers(page)).to_have_count(3)

    # On a phone, where going back leads to the conversation first, and no keyboard covers what was chosen.
    await page.set_viewport_size({"width": 390, "height": 740})
    await open_menu(page, "About me")
    await page.get_by_role("dialog").dispatch_event("cancel")
    await expect(page.get_by_role("button", name="More", exact=True)).to_be_focused()
    await choose(page, "Quiz me")
    await expect(page.get_by_role("log")).to_be_focused()


async def test_the_list_says_that_it_is_open_that_it_cannot_be_loaded_and_which_conversation_is_shown(  # noqa: PLR0915
    service: Service, visit: Visit
) -> None:
    page = await visit(service)
    await open_chat(page)
    await ask(page, "What is a joint?")
    await expect(answers(page)).to_have_text("Answer 1 to: What is a joint?")
    listed = page.get_by_role("button", name="Conversations", exact=True)
    await expect(listed).to_have_attribute("aria-expanded", "false")
    await page.route("**/chat?*", lambda route: route.abort(), times=1)
    await listed.click()
    await expect(listed).to_have_attribute("aria-expanded", "true")
    await expect(page.get_by_role("alert")).to_have_text("Your conversations could not be loaded.")
    await page.get_by_role("button", name="Retry").click()
    entries = page.get_by_role("list", name="Conversations").get_by_role("button")
    await expect(entries).to_have_count(1)
    await expect(entries).to_have_attribute("aria-current", "true")

    await page.get_by_role("searchbox").fill("elbow")
    await expect(page.get_by_text("No conversation has these words.")).to_be_visible()
    await expect(entries).to_have_count(0)
    await page.get_by_role("searchbox").fill(" WHAT IS a")
    await expect(entries).to_contain_text(["What is a joint?"])
    await expect(page.get_by_text("No conversation has these words.")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(listed).to_be_focused()
    await expect(listed).to_have_attribute("aria-expanded", "false")
    await expect(answers(page)).to_be_visible()

    # What comes for a list that was closed meanwhile is not shown in the next one.
    begun, gate = await hold_next(page, "**/chat?*")
    await listed.click()
    await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)
    await page.keyboard.press("Escape")
    await listed.click()
    await expect(entries).to_have_count(1)
    async with page.expect_response("**/chat?*") as late:
        gate.set()
    await (await late.value).finished()
    await drawn(page)
    await expect(entries).to_have_count(1)

    # What the next question is about stays behind when another conversation is shown.
    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_role("button", name="Quiz me").click()
    await expect(answers(page)).to_have_text("Answer 2 to: Quiz me")
    subject, excerpt = page.get_by_text("This page: "), page.locator("book-chat .chosen blockquote")
    await expect(subject).to_have_count(1)
    await page.locator("article").get_by_text("Atlas walks").click(click_count=3)
    await page.get_by_role("button", name="Ask about this").click()
    await expect(excerpt).to_have_count(1)
    await choose(page, "What is a joint?")
    await expect(answers(page)).to_have_text("Answer 1 to: What is a joint?")
    await expect(subject).to_have_count(0)
    await expect(excerpt).to_have_count(0)
    await expect(page.get_by_role("textbox", name="Your question")).to_be_focused()
    await page.get_by_text("A hexapod keeps").click(click_count=3)
    await page.get_by_role("button", name="Ask about this").click()
    await expect(excerpt).to_have_count(1)
    await page.get_by_role("button", name="New conversation").click()
    await expect(excerpt).to_have_count(0)


async def test_the_page_stays_the_subject_until_it_is_removed(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    follow_ups = "\n<follow-ups>\nWhat is a hexapod?\n</follow-ups>"
    model_server.enqueue(stream("A or B?", follow_ups), stream("Right."), stream("Six legs."), stream("Fine."))
    page = await visit(service, path="/part/page?token=secret")
    made = requests_of(page, "chat/stream")
    await open_chat(page)
    await page.get_by_role("button", name="Quiz me").click()
    await expect(answers(page)).to_have_text("A or B?")
    await expect(page.get_by_text("This page: Humanoid robots")).to_be_visible()
    suggested = page.get_by_role("group", name="Ask next").get_by_role("button")
    await expect(suggested).to_have_text("What is a hexapod?")
    await page.reload()
    await ask(page, "B")
    await expect(answers(page).last).to_have_text("Right.")
    await expect(suggested).to_have_count(0)

    await page.get_by_role("button", name="Ask about the whole book again").click()
    await ask(page, "How many legs?")
    await expect(answers(page).last).to_have_text("Six legs.")
    await page.locator("article").get_by_text("Atlas walks").click(click_count=3)
    # There is no language to translate into that this reader is known to read.
    await expect(page.get_by_role("button", name="Translate", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Simplify").click()
    await expect(answers(page).last).to_have_text("Fine.")
    bodies = [json.loads(request.post_data or "") for request in made]
    assert [body.get("scope") for body in bodies] == ["page", "page", None, None]
    assert {body["page_url"] for body in bodies} == {"http://localhost:3000/part/page"}
    assert bodies[3]["selected_text"] == "Atlas walks on two legs. It weighs 89 kg."


@pytest.mark.slow
@needs_axe
async def test_what_readers_say_of_themselves_is_kept_in_the_browser_and_sent_with_each_question(  # noqa: PLR0915
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await visit(service, locale="de-DE")
    made = requests_of(page, "chat/stream")
    more = page.get_by_role("button", name="More", exact=True)
    await page.get_by_text("Atlas walks").click(click_count=3)
    await expect(page.get_by_role("button", name="Translate into German")).to_be_visible()
    await open_chat(page)

    # With the keyboard alone.
    await more.focus()
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_role("menuitem", name="About me")).to_be_focused()
    assert await accessibility_findings(page, within="book-chat") == []
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_role("menuitem", name="Beside the page")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("End")
    await page.keyboard.press("Home")
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    language = page.get_by_role("combobox", name="Language of the answers")
    await expect(language).to_be_focused()
    assert await accessibility_findings(page, within="book-chat") == []
    await language.select_option("ur")
    await page.get_by_role("combobox", name="What I know of the subject").select_option("I am new to it")
    await page.get_by_role("textbox", name="A sentence about me").fill("  I am a nurse. ")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status").filter(has_text="Saved")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(more).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("menuitem")).to_have_count(0)
    await expect(more).to_be_focused()

    await page.reload()
    await ask(page, "What is a joint?")
    await expect(page.get_by_role("button", name="Good answer")).to_have_count(1)
    assert "I am a nurse." in str(model_server.prompt)
    await page.get_by_text("Atlas walks").click(click_count=3)
    await page.get_by_role("button", name="Translate into Urdu").click()
    await expect(page.get_by_role("button", name="Good answer")).to_have_count(2)

    # Who deletes conversations is still the same, until that is deleted too.
    await page.get_by_role("button", name="Delete my conversations").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_text("Your conversations were deleted.")).to_be_visible()
    await open_menu(page, "About me")
    await expect(page.get_by_role("textbox", name="A sentence about me")).to_have_value("I am a nurse.")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(language).to_have_value("")
    await page.get_by_role("button", name="Conversation", exact=True).click()
    kept = f"book-chat {str(service.client.base_url).rstrip('/')}/ about"
    await page.evaluate("name => localStorage.setItem(name, '{')", kept)
    await ask(page, "And now?")
    await expect(page.get_by_role("button", name="Good answer")).to_have_count(1)
    bodies = [json.loads(request.post_data or "") for request in made]
    note = "Please answer in Urdu.\nWhat I know of the subject: I am new to it\nI am a nurse."
    assert [body.get("reader_note") for body in bodies] == [note, note, None]
    assert [body["message"] for body in bodies] == ["What is a joint?", "Translate into Urdu", "And now?"]


@pytest.mark.slow
@needs_axe
async def test_in_a_wide_window_the_panel_is_put_beside_the_text_and_resized(service: Service, visit: Visit) -> None:
    page = await visit(service, viewport={"width": 1280, "height": 720})
    dialog, separator = page.get_by_role("dialog"), page.get_by_role("separator", name="Width of the chat")
    await open_chat(page)
    assert await room(page) == [0, 0]
    await open_menu(page, "Beside the page")
    assert await dialog.bounding_box() == {"x": 880, "y": 0, "width": 400, "height": 720}
    assert await room(page) == [0, 400]
    assert await accessibility_findings(page, within="book-chat") == []

    await separator.focus()
    for key, width in {"ArrowLeft": 420, "ArrowRight": 400, "End": 560, "Home": 320}.items():
        await page.keyboard.press(key)
        await expect(separator).to_have_attribute("aria-valuenow", str(width))
        assert await room(page) == [0, width]
    await page.mouse.move(961, 300)
    await page.mouse.down()
    await page.mouse.move(800, 320, steps=3)
    await page.mouse.up()
    assert await room(page) == [0, 480]
    # Who cannot draw presses.
    await open_menu(page, "Narrower")
    assert await room(page) == [0, 400]
    await page.reload()
    await expect(separator).to_have_attribute("aria-valuenow", "400")
    assert await room(page) == [0, 400]

    await page.get_by_role("button", name="Close").click()
    assert await room(page) == [0, 0]
    await open_chat(page)
    assert await room(page) == [0, 400]
    await page.set_viewport_size({"width": 1200, "height": 720})
    await expect(separator).to_be_hidden()
    assert await room(page) == [0, 0]
    await page.get_by_role("button", name="More", exact=True).click()
    await expect(page.get_by_role("menuitem")).to_have_text(["About me", "Wider"])
    await page.keyboard.press("Escape")
    await page.set_viewport_size({"width": 1280, "height": 720})
    await expect(separator).to_be_visible()
    await open_menu(page, "Over the page")
    await expect(separator).to_be_hidden()
    assert await room(page) == [0, 0]


async def test_from_right_to_left_the_panel_is_on_the_left_of_the_text(service: Service, visit: Visit) -> None:
    page = await visit(service, lang="ur", direction="rtl", viewport={"width": 1600, "height": 720})
    await page.get_by_role("button", name="کتاب سے پوچھیں").click()
    await page.get_by_role("button", name="مزید").click()
    await page.get_by_role("menuitem", name="صفحے کے ساتھ").click()
    assert await page.get_by_role("dialog").bounding_box() == {"x": 0, "y": 0, "width": 400, "height": 720}
    assert await room(page) == [400, 0]
    await page.get_by_role("separator").focus()
    await page.keyboard.press("ArrowRight")
    assert await room(page) == [420, 0]
    await page.get_by_role("textbox").fill("half a quest")
    await page.evaluate("document.documentElement.lang = 'en'; document.documentElement.dir = 'ltr'")
    separator = page.get_by_role("separator", name="Width of the chat")
    await expect(separator).to_be_visible()
    assert await room(page) == [0, 420]
    await expect(page.get_by_role("textbox", name="Your question")).to_have_value("half a quest")

    await page.mouse.move(1181, 300)
    await page.mouse.down()
    await page.mouse.move(1000, 320, steps=2)
    await page.mouse.up()
    assert await room(page) == [0, 600]
    await expect(separator).to_have_attribute("aria-valuenow", "600")
    # In a narrower window the text has what it needs, and in one that is too narrow all of it.
    await page.set_viewport_size({"width": 1280, "height": 720})
    await expect(separator).to_have_attribute("aria-valuenow", "560")
    assert await room(page) == [0, 560]
    await page.set_viewport_size({"width": 1200, "height": 720})
    await expect(separator).to_be_hidden()
    assert await room(page) == [0, 0]
    await page.set_viewport_size({"width": 1600, "height": 720})
    await page.reload()
    await expect(page.get_by_role("separator")).to_have_attribute("aria-valuenow", "600")
    assert await room(page) == [600, 0]
    await page.locator("book-chat .head > button").last.click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await room(page) == [0, 0]


ATLAS = "**Atlas** walks, trots & runs - often, with a gait of its own."
SHOWN = ATLAS.replace("*", "")


async def answer_from_atlas(service: Service, visit: Visit, model_server: FakeOpenAI, plug_in: PlugIn) -> Page:
    """Ask what the passage above and a piece of code answer; return the page, which has the passage far below."""

    async def retriever(_query: Query) -> Sequence[Passage]:
        return [
            Passage(text=f"## Legs\n\n{ATLAS}", source="http://localhost:3000/atlas#legs", title="Atlas"),
            Passage(text="```\ncode\n```", source="http://localhost:3000/code", title="Code"),
        ]

    plug_in(retriever)
    model_server.enqueue(stream("It walks [1], in code [2]."))
    page = await visit(service, body=f"<article><h1>Atlas</h1><p>{'Long.<br>' * 200}</p><p>{SHOWN}</p></article>")
    await open_chat(page)
    await ask(page, "How does it move?")
    await expect(page.get_by_role("button", name="Good answer")).to_be_visible()
    return page


async def test_escape_hides_a_sources_passage_and_leaves_the_chat_open(
    service: Service, visit: Visit, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    page = await answer_from_atlas(service, visit, model_server, plug_in)
    passage = page.get_by_role("tooltip")

    number, dialog = page.get_by_role("link", name="Source 1: Atlas"), page.get_by_role("dialog")
    # A finger would cover it, and follows the link.
    await number.dispatch_event("pointerover", {"pointerType": "touch"})
    await expect(passage).to_be_hidden()
    await number.hover()
    await expect(passage).to_have_text(f"Atlas{SHOWN}")
    await expect(number).to_have_accessible_description(SHOWN)
    boxes: list[Any] = [await part.bounding_box() for part in (passage, number, dialog)]
    shown, link, panel = boxes
    assert panel["x"] < shown["x"] < link["x"]
    assert panel["y"] < shown["y"]
    assert shown["y"] + shown["height"] <= link["y"] + 1
    await page.keyboard.press("Escape")
    await expect(passage).to_be_hidden()
    await expect(dialog).to_be_visible()

    await page.mouse.move(0, 0)
    # The keyboard shows it too, and the list, which has the title already, without that.
    await number.focus()
    await expect(passage).to_have_text(f"Atlas{SHOWN}")
    await page.get_by_role("list", name="Sources").get_by_role("link").first.focus()
    await expect(passage).to_have_text(SHOWN)
    await expect(number).to_have_accessible_description("")
    await page.get_by_role("textbox").focus()
    await expect(passage).to_be_hidden()

    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.slow
@needs_axe
async def test_a_sources_passage_is_shown_beside_it_and_found_on_its_page(
    service: Service, visit: Visit, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    page = await answer_from_atlas(service, visit, model_server, plug_in)
    passage = page.get_by_role("tooltip")
    number = page.get_by_role("link", name="Source 1: Atlas")
    await expect(page.get_by_role("link", name="Source 2: Code")).to_have_attribute("title", "Code")

    # WCAG 1.4.13: it stays while the pointer is on it.
    await number.hover()
    await expect(passage).to_have_text(f"Atlas{SHOWN}")
    await expect(number).to_have_accessible_description(SHOWN)
    assert await accessibility_findings(page, within="book-chat") == []
    await passage.hover()
    await page.wait_for_timeout(400)  # Longer than it stays when the pointer has left.
    await expect(passage).to_be_visible()
    await page.get_by_role("textbox").hover()
    await expect(passage).to_be_hidden()
    await page.get_by_role("log").focus()
    for _ in range(3):
        await page.keyboard.press("Tab")
    listed = page.get_by_role("list", name="Sources").get_by_role("link").first
    await expect(listed).to_be_focused()
    await expect(passage).to_have_text(SHOWN)

    marked = "#legs:~:text=Atlas%20walks%2C%20trots%20%26%20runs%20%2D%20often%2C%20with%20a%20gait"
    for link in (number, listed):
        await expect(link).to_have_attribute("href", f"http://localhost:3000/atlas{marked}")
    await listed.click()
    await page.wait_for_url("http://localhost:3000/atlas#legs*")
    await expect(page.get_by_text(SHOWN).first).to_be_in_viewport()


@pytest.mark.slow
async def test_only_words_that_are_on_the_page_as_they_are_written_are_looked_for(
    service: Service, visit: Visit
) -> None:
    page = await visit(service)
    found: dict[str, str] = await page.evaluate(
        """async ([folder, snippets]) => {
          const { markedAddress } = await import(`${folder}passage.js`);
          const mark = snippet => decodeURIComponent(markedAddress(new URL("https://a.example/b"), snippet));
          return Object.fromEntries(snippets.map(snippet => [snippet, mark(snippet).replace("https://a.example/b", "")]));
        }""",
        [f"{service.client.base_url}/widget/".replace("//widget", "/widget"), list(FRAGMENTS)],
    )
    assert found == {snippet: text and f"#:~:text={text}" for snippet, text in FRAGMENTS.items()}


FRAGMENTS = {
    "Atlas walks.": "Atlas walks.",
    "Legs.\nAnother block.": "Legs.",
    "The force of a robot is $F = ma$.": "The force of a robot is",
    "What the robot's leg does": "",
    "See how the robot's leg moves": "See how the",
    "one two three four five six seven eight nine ten eleven": "one two three four five six seven eight nine ten",
    "and this is cut…": "and this is cut",
    "机器人用两条腿走路。它重八十九公斤很重很重。": "机器人用两条腿走路",
    "": "",
}
"""What is looked for on the page, by the snippet."""


@pytest.mark.slow
async def test_an_answer_without_the_book_says_so_and_a_mirror_asks_for_the_page_of_the_site(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    book = (
        '<link rel="canonical" href="https://book.example.org/part/page?token=1#top"><article><h1>Legs</h1></article>'
    )
    page = await visit(service, body=book)
    bodies: list[dict[str, Any]] = []
    session = "0d0f6b9e-8a39-4c0b-9d3f-5a4f0f1f6f5e"
    events = [
        ("session", {"session_id": session}),
        ("sources", {"sources": [], "unavailable": True}),
        ("delta", {"text": "On two legs."}),
        ("done", {"response": "On two legs.", "session_id": session, "message_id": session, "sources": []}),
    ]
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)

    async def answer(route: Any) -> None:
        bodies.append(json.loads(route.request.post_data))
        headers = {"Access-Control-Allow-Origin": "*"}
        await route.fulfill(body=body, content_type="text/event-stream", headers=headers)

    await page.route("**/chat/stream", answer, times=1)
    await open_chat(page)
    await ask(page, "How does it walk?")
    note = page.get_by_role("status").filter(has_text="Answered without the book, which could not be searched.")
    await expect(answers(page)).to_have_text("On two legs.")
    await expect(note).to_be_visible()
    assert bodies[0]["page_url"] == "https://book.example.org/part/page"

    await page.locator("link").evaluate("link => link.href = '/elsewhere'")
    made = requests_of(page, "chat/stream")
    await ask(page, "And now?")
    await expect(answers(page).last).to_have_text("Answer 1 to: And now?")
    await expect(note).to_have_count(1)
    assert json.loads(made[0].post_data or "")["page_url"] == "http://localhost:3000/"


@pytest.mark.slow
@needs_axe
async def test_readers_are_told_how_their_assistant_finds_the_book(serve: Serve, visit: Visit) -> None:
    for is_on in (False, True):
        service = await serve(**({"MCP_ENABLED": "true"} if is_on else {}))
        page = await visit(service, permissions=["clipboard-read", "clipboard-write"])
        complaints: list[str] = []
        heard(page, complaints)
        loaded = requests_of(page, "widget/")
        await open_chat(page)
        assert not any("features.js" in request.url for request in loaded)
        async with page.expect_response("**/features.js") as response:
            await page.get_by_role("button", name="More", exact=True).click()
        await (await response.value).finished()
        offered = page.get_by_role("menuitem", name="Use this book in your assistant")
        if not is_on:
            await expect(offered).to_have_count(0)
            continue
        await offered.click()
        address = f"{str(service.client.base_url).rstrip('/')}/mcp"
        await expect(page.get_by_text(address, exact=True)).to_be_visible()
        await page.get_by_role("button", name="Copy", exact=True).click()
        await expect(page.get_by_role("status").filter(has_text="Copied")).to_have_count(1)
        assert await page.evaluate("navigator.clipboard.readText()") == address
        assert await accessibility_findings(page, within="book-chat") == []
        await expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()
        await page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('refused')))")
        await page.get_by_role("button", name="Copy", exact=True).click()
        await expect(page.get_by_role("status").filter(has_text="Could not be copied")).to_be_visible()
        assert complaints == []


def heard(page: Page, complaints: list[str]) -> None:
    """Have the page's console written down here."""
    page.on("console", lambda message: complaints.append(message.text))


async def two_conversations(service: Service, visit: Visit) -> Page:
    """Ask of a joint and, in another conversation, of a leg; return the page, which shows the latter."""
    page = await visit(service)
    await open_chat(page)
    await ask(page, "What is a joint?")
    await expect(answers(page)).to_have_text("Answer 1 to: What is a joint?")
    await page.get_by_role("button", name="New conversation").click()
    await ask(page, "What is a leg?")
    await expect(answers(page)).to_have_text("Answer 2 to: What is a leg?")
    return page


async def choose(page: Page, title: str) -> None:
    """Open the conversation that has this title."""
    await page.get_by_role("button", name="Conversations", exact=True).click()
    await page.get_by_role("list", name="Conversations").get_by_role("button", name=title).click()


async def session_in(page: Page) -> str:
    """The conversation that the browser goes on with."""
    session: str = await page.evaluate("Object.entries(localStorage).find(([name]) => name.endsWith(' session'))[1]")
    return session


async def open_menu(page: Page, item: str) -> None:
    """Choose from the menu."""
    await page.get_by_role("button", name="More", exact=True).click()
    await page.get_by_role("menuitem", name=item).click()


async def room(page: Page) -> list[int]:
    """How much room the page leaves on its left and on its right."""
    margins: list[int] = await page.evaluate(
        """() => {
          const { marginLeft, marginRight } = getComputedStyle(document.documentElement);
          return [parseInt(marginLeft), parseInt(marginRight)];
        }"""
    )
    return margins
