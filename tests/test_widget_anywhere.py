"""The widget on pages that were not made for it: the page does not change the chat, and the chat does not change the page."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.browser import (
    BOOK,
    BRIGHTNESS,
    Visit,
    accessibility_findings,
    answers,
    ask,
    becomes,
    needs_chromium,
    open_chat,
    questions,
)
from tests.conftest import Serve, Service
from tests.fake_openai import FakeOpenAI, held, stream
from tests.marks import on_one_database
from tests.test_widget_interface import drawn, needs_axe

pytestmark = [needs_chromium, on_one_database]

LISTEN = """() => {
  globalThis.heard = [];
  for (const name of ["keydown", "keypress", "keyup", "input", "paste", "copy", "compositionstart"])
    for (const where of [document, window, document.documentElement])
      where.addEventListener(name, event => {
        heard.push(event.type);
        event.preventDefault();
      });
}"""

STYLE = """rules => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}"""

HOSTILE = """
  html { font-size: 40px; letter-spacing: 3px; direction: rtl }
  html, body { display: grid; grid-template-columns: 1fr 1fr; gap: 99px }
  html > *, body > * { transform: translateX(-50vw) !important; opacity: 0.3 !important; filter: blur(2px) !important }
  * { font-size: 3rem; visibility: hidden !important; pointer-events: none !important }
  book-chat { display: none !important; position: static !important; width: 500px !important; z-index: -1 !important }
  button, textarea, dialog { all: unset !important }
"""


@pytest.mark.slow
async def test_keys_end_at_the_chat_and_the_page_takes_it_for_a_field(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await page.evaluate(LISTEN)
    await open_chat(page)
    textbox = page.get_by_role("textbox")
    assert await page.evaluate("document.activeElement.isContentEditable")
    await page.keyboard.type("and/or s?")
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("Control+A")
    await page.keyboard.press("Control+C")
    await page.keyboard.press("End")
    await page.keyboard.press("Control+V")
    await expect(textbox).to_have_value("and/or s?and/or s?")
    assert await page.evaluate("heard") == []

    # Outside of the chat the page has its keys.
    await page.get_by_role("button", name="Close").click()
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.press("s")
    assert await page.evaluate("heard") == ["keydown"] * 3 + ["keyup"] * 3


@pytest.mark.slow
async def test_no_rule_of_the_page_reaches_the_chat(service: Service, visit: Visit) -> None:
    page = await visit(service)
    boxes: list[list[Any]] = []
    for rules in ("html { overflow: hidden }", HOSTILE):
        await page.evaluate(STYLE, rules)
        launcher, dialog = page.locator("book-chat .launcher"), page.locator("book-chat dialog")
        boxes.append([await launcher.bounding_box()])
        await launcher.click()
        await expect(dialog).to_be_visible()
        boxes[-1].append(await dialog.bounding_box())
        looks = "element => { const style = getComputedStyle(element); return [style.fontSize, style.letterSpacing, style.visibility] }"
        boxes[-1] += [await page.locator("book-chat .field textarea").evaluate(looks), await dialog.evaluate(looks)]
        await page.get_by_role("button", name="Close").click()
    assert boxes[0] == boxes[1]


@pytest.mark.slow
async def test_the_chat_moves_nothing_on_the_page_and_is_outside_of_its_body(service: Service, visit: Visit) -> None:
    page = await visit(service, body=f'<div id="page">{BOOK}</div>')
    await page.evaluate(STYLE, "body { display: flex; gap: 50px; justify-content: center }")
    place = "document.getElementById('page').getBoundingClientRect().toJSON()"
    without = await page.evaluate(f"document.querySelector('book-chat').remove(), {place}")
    # It comes back, as from whatever exchanges the body.
    await open_chat(page)
    assert await page.evaluate(place) == without
    assert await page.evaluate("document.querySelector('book-chat').parentElement === document.documentElement")

    await ask(page, "How does it walk?")
    await expect(answers(page)).to_have_text("Answer 1 to: How does it walk?")
    await page.evaluate("document.body.replaceWith(document.body.cloneNode(true))")
    await expect(answers(page)).to_be_visible()
    await page.evaluate("document.body.style.background = '#111'")
    await becomes(page, f"{BRIGHTNESS} < 60")


@pytest.mark.slow
async def test_the_chat_has_the_colours_that_the_page_has_whatever_it_says(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    await becomes(page, f"{BRIGHTNESS} > 240")
    for dark, light in (
        ("document.body.className = 'dark'", "document.body.className = ''"),
        ("document.querySelector('main').className = 'dark'", "document.querySelector('main').className = ''"),
        ("document.documentElement.style.colorScheme = 'dark'", "document.documentElement.style.colorScheme = ''"),
    ):
        await page.evaluate(STYLE, ".dark { background: oklch(0.2 0.02 250); color: #ddd }")
        await page.evaluate(dark)
        # What a theme changes within the body is seen once the reader has pressed its switch.
        await page.get_by_text("Menu of the book").click()
        await becomes(page, f"{BRIGHTNESS} < 60")
        await page.evaluate(light)
        await page.get_by_text("Menu of the book").click()
        await becomes(page, f"{BRIGHTNESS} > 240")

    for name in ("--md-primary-fg-color", "--vp-c-brand-1", "--pst-color-primary", "--color-brand-primary"):
        await page.evaluate(f"document.body.style.setProperty('{name}', 'hsl(120 100% 25%)')")
        await becomes(
            page,
            "getComputedStyle(document.querySelector('book-chat')).getPropertyValue('--accent') === 'rgb(0, 128, 0)'",
        )
        await page.evaluate(f"document.body.style.removeProperty('{name}')")


async def test_the_chat_becomes_dark_with_the_system_where_the_page_does(service: Service, visit: Visit) -> None:
    page = await visit(service, color_scheme="light")
    launcher = page.locator("book-chat .launcher")
    await page.evaluate(STYLE, "html { overflow: hidden }")
    box = await launcher.bounding_box()
    await page.evaluate(STYLE, HOSTILE)
    assert await launcher.bounding_box() == box
    await page.evaluate(STYLE, "@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }")
    await page.clock.install()
    await open_chat(page)
    await becomes(page, f"{BRIGHTNESS} > 240")
    # The press on the button has been reacted to.
    await page.clock.fast_forward(1_000)

    await page.emulate_media(color_scheme="dark")
    await becomes(page, f"{BRIGHTNESS} < 60")
    # The reader changes the site's theme.
    await page.evaluate("document.body.style.background = '#fff'")
    await becomes(page, f"{BRIGHTNESS} > 240")
    # On paper there is nothing to press.
    await page.emulate_media(media="print")
    await expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.slow
async def test_the_chat_follows_the_pages_language_and_its_suggestions(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate))
    page = await visit(service)
    await open_chat(page)
    await page.evaluate("document.querySelector('h1').textContent = 'Wheels'")
    await expect(page.get_by_role("button", name="Summarise “Wheels”")).to_be_visible()

    await page.get_by_role("textbox").fill("How does it walk?")
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_have_text("On two")
    await page.get_by_role("textbox").fill("half a quest")
    await page.evaluate("document.documentElement.lang = 'ur'")
    textbox = page.get_by_role("textbox", name="آپ کا سوال")
    await expect(textbox).to_have_value("half a quest")
    box: Any = await page.get_by_role("dialog", name="کتاب سے پوچھیں").bounding_box()
    assert box["x"] == 20
    gate.set()
    await expect(answers(page)).to_have_text("On two legs.")
    await expect(questions(page)).to_have_text(["How does it walk?"])
    assert len(model_server.requests) == 1


async def test_a_page_gets_its_language_whatever_its_tag_adds(service: Service, visit: Visit) -> None:
    page = await visit(service)
    expected = {
        "de-AT": "de",
        "pt-BR": "pt",
        "pt-PT": "pt",
        "FR": "fr",
        "en-GB": "en",
        # Underscores are wrong, and common.
        "zh_Hant_TW": "zh-Hant",
        "ur_PK": "ur",
        # The script that the region writes, unless the tag says another one.
        "zh": "zh",
        "zh-CN": "zh",
        "zh-Hans-CN": "zh",
        "zh-Hans-HK": "zh",
        "zh-TW": "zh-Hant",
        "zh-HK": "zh-Hant",
        "zh-Hant": "zh-Hant",
        # Codes of the past.
        "in": "id",
        "iw": "en",
        # None that there is.
        "": "en",
        "sv": "en",
        "x-klingon": "en",
        "constructor": "en",
    }

    found = await page.evaluate(
        """async ([folder, tags]) => {
          const { languageOf } = await import(`${folder}labels.js`);
          return Object.fromEntries(tags.map((tag) => [tag, languageOf(tag)]));
        }""",
        [str(service.client.base_url).rstrip("/") + "/widget/", [*expected]],
    )

    assert found == expected


@pytest.mark.slow
async def test_what_is_selected_is_offered_where_it_is_seen_and_told_when_it_is_too_long(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    page = await visit(service, body=BOOK.replace("A hexapod", "A hexapod " + "walks " * 7_000))
    bubble = page.get_by_role("button", name="Ask about this")
    await page.keyboard.press("Control+A")
    await expect(bubble).to_be_in_viewport(ratio=1)
    await bubble.click()
    await expect(page.get_by_text("characters are selected. A question can be about 20,000 at most.")).to_be_visible()
    textbox, send = page.get_by_role("textbox"), page.get_by_role("button", name="Send")
    await textbox.fill("What is this about?")
    await expect(send).to_be_disabled()
    await page.keyboard.press("Enter")
    await expect(questions(page)).to_have_count(0)

    await page.get_by_role("button", name="Use the first 20,000").click()
    await expect(textbox).to_be_focused()
    quotation = page.get_by_role("blockquote")
    assert len(await quotation.text_content() or "") == 20_000
    whole = page.get_by_role("button", name="Show all")
    await whole.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Show less")).to_have_attribute("aria-expanded", "true")
    await send.click()
    await expect(answers(page)).to_be_visible()
    assert "Menu of the book" not in str(model_server.prompt)


@pytest.mark.slow
async def test_ten_thousand_pasted_lines_hold_up_nothing(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    # Compared with the browser's own field, since other tests may need the processor at the same time.
    chat, own = await page.evaluate(
        """async () => {
          const field = document.createElement("textarea");
          document.body.append(field);
          const measure = async textbox => {
            textbox.focus();
            const start = performance.now();
            textbox.setRangeText("a line that was pasted\\n".repeat(10_000));
            textbox.dispatchEvent(new InputEvent("input"));
            await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
            return performance.now() - start;
          };
          const textbox = document.querySelector("book-chat").shadowRoot.querySelector("textarea");
          return [await measure(textbox), await measure(field)];
        }"""
    )
    assert chat < 2.5 * own + 200, (chat, own)
    box: Any = await page.get_by_role("textbox", name="Your question").bounding_box()
    assert 80 < box["height"] < 200


@pytest.mark.slow
async def test_a_question_that_is_asked_meanwhile_waits_and_can_be_taken_back(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate), stream("Yes."))
    page = await visit(service)
    await open_chat(page)
    await ask(page, "How does it walk?")
    await expect(answers(page)).to_have_text("On two")
    textbox = page.get_by_role("textbox")
    for question in ("Always?", "Why?"):
        await textbox.fill(question)
        await page.keyboard.press("Enter")
    await expect(page.get_by_text("This is asked as soon as the answer above is there.")).to_have_count(2)
    await page.get_by_role("button", name="Take back").last.click()
    await expect(textbox).to_have_value("Why?")
    await expect(questions(page)).to_have_text(["How does it walk?", "Always?"])

    await page.reload()
    gate.set()
    await expect(answers(page)).to_have_text(["On two legs.", "Yes."])
    assert len(model_server.requests) == 2
    assert len(await service.tables.sessions()) == 1


@pytest.mark.slow
async def test_what_was_asked_after_a_question_that_failed_comes_back(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    gate = asyncio.Event()
    error = {"code": "openai_error", "message": "The assistant failed.", "request_id": "1", "retryable": True}

    async def fail_later(route: Route) -> None:
        await gate.wait()
        await route.fulfill(status=500, json={"error": error}, headers={"Access-Control-Allow-Origin": "*"})

    await page.route("**/chat/stream", fail_later)
    for question in ("How does it walk?", "Always?", "Why?"):
        await ask(page, question)
    await expect(questions(page)).to_have_count(3)
    gate.set()
    await expect(page.get_by_role("textbox")).to_have_value("Always?\nWhy?")
    await expect(questions(page)).to_have_text(["How does it walk?"])
    await expect(page.get_by_role("button", name="Retry")).to_be_visible()


@pytest.mark.slow
async def test_two_tabs_that_ask_at_once_have_one_conversation_and_show_it(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(held(gate), held(gate))
    first = await visit(service)
    second = await visit(service, context=first.context)
    await open_chat(first)
    await open_chat(second)
    await asyncio.gather(ask(first, "One?"), ask(second, "Two?"))
    await model_server.wait_for_requests(2)
    gate.set()
    for page in (first, second):
        await expect(answers(page)).to_have_count(2)
        assert sorted(await questions(page).all_text_contents()) == ["One?", "Two?"]
    assert len(await service.tables.sessions()) == 1


@pytest.mark.slow
@needs_axe
async def test_everything_fits_a_window_that_is_zoomed_to_400_per_cent(service: Service, visit: Visit) -> None:
    page = await visit(service, viewport={"width": 320, "height": 256})
    await open_chat(page)
    await ask(page, "How does it walk?")
    await expect(answers(page)).to_be_visible()
    log: Any = await page.get_by_role("log").bounding_box()
    assert log["height"] >= 130
    for name in ("Close", "New conversation", "Send"):
        await expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    await expect(page.get_by_role("textbox")).to_be_in_viewport(ratio=1)
    assert await accessibility_findings(page, within="book-chat") == []


@pytest.mark.slow
async def test_every_state_is_announced_and_a_refused_clipboard_is_said(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate), stream("Yes."))
    page = await visit(service)
    await open_chat(page)
    status = page.get_by_role("status")
    await ask(page, "How does it walk?")
    await expect(status.filter(has_text="Looking it up…")).to_have_count(1)
    await expect(answers(page)).to_have_text("On two")
    await page.get_by_role("button", name="Stop").click()
    await expect(status.filter(has_text="Stopped.")).to_have_count(1)
    gate.set()
    await ask(page, "Always?")
    await expect(answers(page).last).to_have_text("Yes.")

    await page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('No')) }")
    await page.get_by_role("button", name="Copy").last.click()
    await expect(status.filter(has_text="Could not be copied")).to_be_visible()


@pytest.mark.slow
async def test_the_owner_of_the_book_opens_it_with_a_question_and_hears_what_happens(
    service: Service, visit: Visit
) -> None:
    page = await visit(
        service,
        attributes='data-questions="What is a hexapod? | Who was Newton?" data-position="left" data-shortcut="Mod+Shift+K"',
        script="""
          globalThis.told = [];
          for (const name of ["open", "close", "question", "answer", "error", "feedback"])
            addEventListener(`book-chat:${name}`, event => told.push([name, event.detail]));
        """,
    )
    box: Any = await page.get_by_role("button", name="Ask the book").bounding_box()
    assert box["x"] == 20
    await page.evaluate("document.querySelector('book-chat').open({ question: 'How does it walk?' })")
    await expect(page.get_by_role("textbox")).to_have_value("How does it walk?")
    await expect(page.get_by_role("textbox")).to_be_focused()
    await expect(questions(page)).to_have_count(0)
    await page.evaluate("document.querySelector('book-chat').close()")
    await expect(page.get_by_role("dialog")).to_have_count(0)

    for is_open in (True, False, True):
        await page.keyboard.press("Control+Shift+K")
        await expect(page.get_by_role("dialog")).to_have_count(int(is_open))
    await expect(page.get_by_text("On this page")).to_have_count(0)
    await page.get_by_role("button", name="Who was Newton?").click()
    await page.get_by_role("button", name="Good answer").click()
    await expect(page.get_by_text("Thank you! What was good?")).to_be_visible()
    told = await page.evaluate("told")
    assert [name for name, _ in told] == ["open", "close", "open", "close", "open", "question", "answer", "feedback"]
    assert told[5:] == [
        ["question", {"hasSelection": False}],
        ["answer", {"seconds": told[6][1]["seconds"], "sources": 0}],
        ["feedback", {"rating": "positive"}],
    ]


@pytest.mark.slow
async def test_a_chat_that_its_owner_opens_takes_no_focus_and_stays_closed_once_it_was_closed(
    service: Service, visit: Visit
) -> None:
    page = await visit(service, attributes="data-open")
    await expect(page.get_by_role("dialog")).to_be_visible()
    assert await page.evaluate("document.activeElement === document.body")
    await page.get_by_role("button", name="Close").click()
    await page.reload()
    await expect(page.get_by_role("button", name="Ask the book")).to_be_visible()
    await drawn(page)
    await expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.slow
async def test_a_browser_below_the_baseline_has_no_button(service: Service, visit: Visit) -> None:
    for lacking in (
        "delete Document.prototype.adoptedStyleSheets; delete ShadowRoot.prototype.adoptedStyleSheets",
        "delete globalThis.TextDecoderStream",
        "CSS.supports = () => false",
    ):
        page = await visit(service, script=lacking)
        await page.wait_for_load_state("networkidle")
        await expect(page.locator("book-chat")).to_have_count(0)


@pytest.mark.slow
async def test_the_words_of_the_owner_of_a_paused_service_are_shown(serve: Serve, visit: Visit) -> None:
    service = await serve()
    page = await visit(service)
    await open_chat(page)
    error = {"code": "paused", "message": "Back on Monday.", "request_id": "1", "retryable": True}
    await page.route(
        "**/chat/stream",
        lambda route: route.fulfill(status=503, json={"error": error}, headers={"Access-Control-Allow-Origin": "*"}),
    )
    await ask(page, "How does it walk?")
    await expect(page.get_by_role("alert")).to_contain_text("Back on Monday.")
    await expect(page.get_by_role("button", name="Retry")).to_be_visible()
