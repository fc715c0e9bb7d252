"""What a reader is shown of whatever the service answers: the tests make the answers up, each for many cases on one page."""

import asyncio
import json
from typing import Any

from playwright.async_api import Page, Route, expect

from app.models import utc_now
from tests.browser import PHONE, Visit, answers, ask, needs_chromium, open_chat, questions, requests_of
from tests.conftest import Service
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS
from tests.test_widget_interface import drawn

pytestmark = [needs_chromium, on_one_database]

SESSION = "0d0f6b9e-8a39-4c0b-9d3f-5a4f0f1f6f5e"
HEADERS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After"}

ANSWER = """It walks [1], or trots [2]. Not [9]. R&amp;D &rarr; &#8364;5 &#xB0;C, ~~never~~ ![a picture](https://evil.example/p.png)<br>more.

3. Three
4. Four

| a | b |
|:-:|--:|
| 1 | 2 |

See [the page](/elsewhere#legs) and <https://elsewhere.example/spot>.
"""

LISTEN = """
  globalThis.told = [];
  for (const name of ["open", "close", "question", "answer", "error", "feedback"])
    addEventListener(`book-chat:${name}`, ({ detail }) => told.push([name, detail]));
"""


async def answer_next(page: Page, text: str, *, found: Any = (), unavailable: bool = False, **done: Any) -> None:
    """Answer the next question with this text; `found` is what the book had."""
    events = [
        ("session", {"session_id": SESSION}),
        ("sources", {"sources": found, "unavailable": unavailable}),
        ("delta", {"text": text}),
        ("follow_ups", {"questions": ["Why?"]}),
        ("done", {"response": text, "session_id": SESSION, "message_id": SESSION, **done}),
    ]
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    await _fulfill_next(page, body=body, content_type="text/event-stream", headers=HEADERS)


async def refuse_next(page: Page, code: str, *, status: int = 500, after: str = "", **error: Any) -> None:
    """Refuse the next question with this error."""
    error = {"code": code, "message": "In the service's words.", "request_id": "r-1", "retryable": True, **error}
    headers = HEADERS | ({"Retry-After": after} if after else {})
    await _fulfill_next(page, status=status, json={"error": error}, headers=headers)


async def _fulfill_next(page: Page, **response: Any) -> None:
    async def fulfill(route: Route) -> None:
        await route.fulfill(**response)

    await page.route("**/chat/stream", fulfill, times=1)


def source(number: int, url: str, title: str, **more: str) -> dict[str, Any]:
    return {"number": number, "url": url, "title": title, **more}


async def test_an_answer_shows_all_that_it_has_and_leads_where_it_says(  # noqa: PLR0915  # One page for all of it.
    service: Service, visit: Visit
) -> None:
    page = await visit(
        service,
        path="/part/page?token=secret",
        attributes='data-open data-title="Ask Atlas" data-position="left" data-questions="What is it? | Who was Newton?"',
        permissions=["clipboard-read", "clipboard-write"],
        script=LISTEN,
    )
    made = requests_of(page, "chat/")
    dialog = page.get_by_role("dialog", name="Ask Atlas")
    await expect(page.get_by_text("On this page")).to_have_count(0)
    assert await page.evaluate("document.activeElement === document.body")
    box: Any = await dialog.bounding_box()
    assert box["x"] == 20

    legs = source(1, "http://localhost:3000/atlas#legs", "Atlas / Legs", snippet="Atlas walks.")
    spot = source(2, "https://elsewhere.example/spot", "Spot")
    arms = source(3, "http://localhost:3000/atlas#arms", "Atlas / Arms")
    found = [legs, spot, arms, {**arms, "number": 4}, source(5, "javascript:alert(1)", "Evil")]
    await answer_next(page, ANSWER, found=found, sources=[legs, spot], truncated=True)
    await page.get_by_role("button", name="Who was Newton?").click()
    await expect(page.get_by_role("textbox")).to_be_focused()
    await expect(page.locator("book-chat [role=status].sr")).to_contain_text("Answer: It walks")

    answer = answers(page)
    await expect(answer.locator("p").first).to_have_text(
        "It walks1, or trots2. Not [9]. R&D → €5 °C, never a picturemore."
    )
    await expect(answer.locator("del")).to_have_text("never")
    await expect(answer.locator("ol")).to_have_attribute("start", "3")
    for tag in ("th", "td"):
        cells = answer.locator(tag)
        assert await cells.evaluate_all("cells => cells.map(cell => getComputedStyle(cell).textAlign)") == [
            "center",
            "end",
        ]
    table = answer.get_by_role("region", name="Table")
    assert await table.evaluate("table => [getComputedStyle(table).overflowX, table.tabIndex]") == ["auto", 0]

    inside = page.get_by_role("link", name="Source 1: Atlas / Legs")
    outside = page.get_by_role("link", name="Source 2: Spot")
    listed = page.get_by_role("list", name="Sources", exact=True).get_by_role("link")
    await expect(listed).to_have_text(["1Atlas / Legs", "2Spot"])
    for link in (inside, listed.first):
        await expect(link).to_have_attribute("href", "http://localhost:3000/atlas#legs:~:text=Atlas%20walks.")
        assert await link.get_attribute("target") is None
    for link in (outside, listed.last, answer.get_by_role("link", name="https://elsewhere.example/spot")):
        await expect(link).to_have_attribute("href", "https://elsewhere.example/spot")
        await expect(link).to_have_attribute("target", "_blank")
    related = page.get_by_role("list", name="Related in the book").get_by_role("listitem")
    await expect(related).to_have_text(["Atlas / Arms", "Evil"])
    await expect(related.last.get_by_role("link")).to_have_count(0)

    await page.get_by_role("button", name="Copy").last.click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == ANSWER

    suggested = page.get_by_role("group", name="Ask next").get_by_role("button")
    await expect(suggested).to_have_text("Why?")
    await expect(page.get_by_text("The answer was cut off here.")).to_be_visible()
    await answer_next(page, "The rest.", unavailable=True)
    await page.get_by_role("button", name="Continue").click()
    await expect(questions(page)).to_have_text(["Who was Newton?", "Continue"])
    await expect(page.get_by_text("Answered without the book, which could not be searched.")).to_be_visible()
    await expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    await answer_next(page, "Because.", found=found)
    await suggested.click()
    await expect(questions(page).last).to_have_text("Why?")
    await expect(answers(page).last).to_have_text("Because.")
    await expect(page.get_by_role("list", name="Related in the book")).to_have_count(1)
    await expect(page.get_by_text("Answered without the book, which could not be searched.")).to_have_count(1)
    await expect(page.get_by_role("textbox")).to_be_focused()

    bodies = [json.loads(request.post_data or "") for request in made if request.method == "POST"]
    assert [body.get("session_id") for body in bodies] == [None, SESSION, SESSION]
    assert {(body["page_url"], body.get("scope"), body["follow_ups"], body["snippets"]) for body in bodies} == {
        ("http://localhost:3000/part/page", None, True, True)
    }
    told = await page.evaluate("told")
    assert [name for name, _ in told] == ["open", *["question", "answer"] * 3]
    assert told[1:3] == [
        ["question", {"hasSelection": False}],
        ["answer", {"seconds": told[2][1]["seconds"], "sources": 2}],
    ]


async def test_a_link_to_the_book_is_followed_as_the_site_would(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await page.evaluate(
        """() => {
          globalThis.told = [];
          addEventListener("book-chat:navigate", ({ detail }) => told.push(detail.url));
          // The browser does nothing by itself.
          document.addEventListener("click", event => {
            if (event.composedPath().some(({ localName }) => localName === "a")) event.preventDefault();
          });
        }"""
    )
    await open_chat(page)
    # What is suggested is about the page that the site has just shown.
    await expect(page.get_by_role("button", name="Summarise “Humanoid robots”")).to_be_visible()
    await page.evaluate("document.querySelector('h2').textContent = 'Wheels'")
    await answer_next(page, "See [the page](/elsewhere#legs) and [another](https://elsewhere.example/).")
    await page.get_by_role("button", name="Explain “Wheels”").click()
    await expect(questions(page)).to_have_text("Explain “Wheels”")
    link = page.get_by_role("link", name="the page")
    for key in ("ctrlKey", "metaKey", "shiftKey", "altKey"):
        await link.dispatch_event("click", {key: True})
    await page.get_by_role("link", name="another").click()
    assert await page.evaluate("told") == []
    await link.click()
    assert await page.evaluate("told") == ["http://localhost:3000/elsewhere#legs"]
    assert page.url == "http://localhost:3000/"

    # The router of Docusaurus listens to the history.
    await page.evaluate(
        "globalThis.docusaurus = {}; addEventListener('popstate', () => told.push('popstate'), { once: true })"
    )
    await link.click()
    assert page.url == "http://localhost:3000/elsewhere#legs"
    assert (await page.evaluate("told"))[2:] == ["popstate"]
    await expect(page.get_by_role("dialog")).to_be_visible()

    # A site that opens its pages itself is left alone.
    await page.evaluate("addEventListener('book-chat:navigate', event => event.preventDefault())")
    await page.evaluate("history.replaceState(null, '', '/')")
    await link.click()
    assert page.url == "http://localhost:3000/"


async def test_what_went_wrong_is_said_with_what_the_reader_can_do(  # noqa: PLR0915  # One page for all of it.
    service: Service, visit: Visit
) -> None:
    page = await visit(service, script=LISTEN)
    posts = requests_of(page, "chat/stream")
    await page.clock.install()
    await page.route("**/panel.js*", lambda route: route.abort(), times=1)
    await page.get_by_role("button", name="Ask the book").click()
    await expect(page.get_by_role("alert")).to_have_text("The chat could not be loaded. Please try again.")
    await open_chat(page)
    await expect(page.get_by_role("alert")).to_have_count(0)
    alert, retry = page.get_by_role("alert"), page.get_by_role("button", name="Retry")
    textbox = page.get_by_role("textbox")

    await refuse_next(page, "openai_error")
    await ask(page, "How does it walk?")
    await expect(alert).to_have_text("In the service's words.Reference: r-1")
    await refuse_next(page, "rate_limited", status=429, after="80")
    await retry.click()
    await expect(page.get_by_role("timer")).to_contain_text("You can ask again in")
    await expect(alert).to_have_text("You are asking too often.")
    await expect(retry).to_be_disabled()
    await page.clock.fast_forward(80_000)
    await expect(page.get_by_role("timer")).to_have_text("You can ask again now.")
    # A busy service, and one at which another page is being answered, are asked again unbidden.
    await answer_next(page, "On two legs.")
    await refuse_next(page, "turn_in_progress", status=409, after="20")
    await refuse_next(page, "overloaded", status=503, after="20")
    await retry.click()
    await expect(page.get_by_text("The assistant is busy. Trying again…")).to_be_visible()
    await page.clock.fast_forward(20_000)
    await expect(page.get_by_text("The answer is being written…")).to_be_visible()
    await page.clock.fast_forward(20_000)
    await expect(answers(page)).to_have_text("On two legs.")
    await expect(alert).to_have_count(0)
    keys = [request.headers["idempotency-key"] for request in posts if request.method == "POST"]
    assert len(keys) == 5
    assert len({*keys}) == 1

    # A key that belongs to another question is replaced.
    await answer_next(page, "Yes.")
    await refuse_next(page, "idempotency_conflict", status=409)
    await ask(page, "Always?")
    await expect(answers(page).last).to_have_text("Yes.")
    keys = [request.headers["idempotency-key"] for request in posts if request.method == "POST"]
    assert len({*keys[5:]}) == len(keys[5:]) == 2

    details = [{"field": "message", "reason": "is too long"}]
    await refuse_next(page, "validation_error", status=422, details=details, retryable=False)
    await ask(page, "x" * 21)
    await expect(alert).to_contain_text("In the service's words. (message is too long)")
    await expect(textbox).to_have_value("x" * 21)
    await expect(retry).to_have_count(0)

    date: str = await page.evaluate("new Date(Date.now() + 80_000).toUTCString()")
    for number, (code, status, retryable, after, texts) in enumerate(
        (
            ("openai_refused", 500, False, "", ["In the service's words.", "Reference: r-1"]),
            ("paused", 503, True, "", ["In the service's words."]),
            ("rate_limited", 429, True, "7200", ["You are asking too often.", "You can ask again from"]),
            ("budget_exhausted", 429, True, date, ["The assistant has answered all it can for today.", "again in"]),
        )
    ):
        await refuse_next(page, code, status=status, retryable=retryable, after=after)
        await ask(page, f"And {number}?")
        await expect(questions(page).last).to_have_text(f"And {number}?")
        for text in texts:
            await expect(page.locator("book-chat .turn").last).to_contain_text(text)
        # What was not answered before is not asked again.
        await expect(retry).to_have_count(int(retryable))

    # The answers were made up, and the service does not know their conversation.
    await page.get_by_role("button", name="New conversation").click()
    await page.context.set_offline(True)
    await ask(page, "And now?")
    await expect(page.get_by_text("You are offline.")).to_be_visible()
    await page.context.set_offline(False)
    await expect(answers(page)).to_have_text("Answer 1 to: And now?")
    told = await page.evaluate("told")
    assert [detail["code"] for name, detail in told if name == "error"] == [
        "openai_error",
        "rate_limited",
        "validation_error",
        "openai_refused",
        "paused",
        "rate_limited",
        "budget_exhausted",
    ]


async def test_questions_wait_in_line_and_come_back_if_the_one_before_fails(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    gate = asyncio.Event()
    textbox, log = page.get_by_role("textbox"), page.get_by_role("log")

    async def fail_later(route: Route) -> None:
        await gate.wait()
        error = {"code": "openai_timeout", "message": "It took too long.", "request_id": "r-1", "retryable": True}
        await route.fulfill(status=500, json={"error": error}, headers=HEADERS)

    await page.route("**/chat/stream", fail_later, times=1)
    await ask(page, "How does it walk?")
    await expect(page.get_by_text("Looking it up…")).to_be_visible()
    await expect(log).to_have_attribute("aria-busy", "true")
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    await expect(page.get_by_role("button", name="Send")).to_be_hidden()
    for question in ("Always?", "Why?", "When?"):
        await ask(page, question)
    await expect(page.get_by_text("This is asked as soon as the answer above is there.")).to_have_count(3)
    await page.get_by_role("button", name="Take back").last.click()
    await expect(textbox).to_have_value("When?")
    await expect(questions(page)).to_have_text(["How does it walk?", "Always?", "Why?"])
    gate.set()
    await expect(page.get_by_role("alert")).to_contain_text("It took too long.")
    await expect(textbox).to_have_value("Always?\nWhy?\nWhen?")
    await expect(questions(page)).to_have_text(["How does it walk?"])
    await expect(log).to_have_attribute("aria-busy", "false")

    # A conversation that has not begun cannot be opened again, and gives back what was asked in it.
    await page.get_by_role("button", name="New conversation").click()
    await expect(textbox).to_have_value("How does it walk?\nAlways?\nWhy?\nWhen?")
    await expect(textbox).to_be_focused()
    await expect(page.get_by_text("What would you like to know?")).to_be_visible()
    assert await page.evaluate("Object.keys(localStorage).some(name => name.includes(' pending '))") is False

    # One that has begun is left, also in the middle of an answer.
    waiting = asyncio.Event()

    async def never(route: Route) -> None:
        waiting.set()

    await answer_next(page, "It walks.")
    await ask(page, "How?")
    await expect(answers(page)).to_have_text("It walks.")
    await page.route("**/chat/stream", never, times=1)
    await ask(page, "And then?")
    await asyncio.wait_for(waiting.wait(), PATIENCE_SECONDS)
    # Who is asked whether to delete everything goes on being asked.
    await page.get_by_role("button", name="Delete my conversations").click()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("Stopped. The whole answer is kept.")).to_be_visible()
    await page.get_by_role("button", name="Keep").click()
    await page.route("**/chat/stream", never, times=1)
    waiting.clear()
    await page.get_by_role("button", name="Retry").click()
    await asyncio.wait_for(waiting.wait(), PATIENCE_SECONDS)
    await page.get_by_role("button", name="New conversation").click()
    await expect(questions(page)).to_have_count(0)
    await expect(textbox).to_have_value("")
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()


async def test_a_conversation_is_read_back_a_part_at_a_time_with_all_that_was_in_it(  # noqa: PLR0915  # One page for it.
    service: Service, visit: Visit
) -> None:
    def item(number: int, content: str, **more: Any) -> dict[str, Any]:
        return {"id": f"m{number}", "role": "user" if number % 2 else "assistant", "content": content, **more}

    long = "\n\n".join(f"Paragraph {number}." for number in range(30))
    parts: dict[str | None, dict[str, Any]] = {
        None: {
            "data": [
                item(
                    6,
                    long,
                    truncated=True,
                    feedback={"rating": "negative"},
                    sources=[source(1, "http://localhost:3000/atlas", "Atlas")],
                ),
                item(5, "Three?", selected_text="Atlas walks."),
                item(4, "Two."),
            ],
            "has_more": True,
            "after": "m4",
        },
        "m4": {"data": [item(3, "Two?"), item(2, "One."), item(1, "One?")], "has_more": False, "after": None},
    }
    kept = f"book-chat {str(service.client.base_url).rstrip('/')}/"
    now = utc_now().timestamp() * 1000

    def pending(key: str, message: str, after: str, state: str, session: str = SESSION, **more: str) -> str:
        question = {"message": message, "session_id": session, **more}
        content = {"key": key, "question": question, "after": after, "askedAt": now, "state": state}
        return f"localStorage[{json.dumps(f'{kept} pending {key}')}] ??= {json.dumps(json.dumps(content))};"

    page = await visit(
        service,
        # It is kept from the time before.
        script=f"if (!sessionStorage.begun) {{ localStorage['{kept} session'] = '{SESSION}';"
        + pending("a", "Three?", "m4", "asking", selected_text="Atlas walks.")
        + pending("b", "Four?", "m6", "stopped")
        + pending("c", "Elsewhere?", "m6", "asking", session="another")
        + "} sessionStorage.begun = 1",
    )
    made = requests_of(page, "chat/")

    async def fail(route: Route) -> None:
        error = {"code": "database_error", "message": "The database is away.", "request_id": "1"}
        await route.fulfill(status=503, json={"error": error}, headers=HEADERS)

    async def read(route: Route) -> None:
        after = route.request.url.partition("after=")[2] or None
        await route.fulfill(json=parts[after], headers=HEADERS)

    await page.route("**/messages?*", read)
    await page.route("**/messages?*", fail, times=1)
    await open_chat(page)
    await expect(page.get_by_role("alert")).to_have_text("The conversation could not be loaded.")
    await page.get_by_role("button", name="Retry").click()
    await expect(questions(page)).to_have_text(["", "Three?", "Four?"])
    # A question on the page before leaves no empty place.
    await expect(page.locator("book-chat .question").first).to_be_hidden()
    await expect(answers(page).first).to_have_text("Two.")
    await expect(page.get_by_role("blockquote")).to_have_text("Atlas walks.")
    await expect(page.get_by_role("button", name="Bad answer").last).to_have_attribute("aria-pressed", "true")
    await expect(page.get_by_role("button", name="Good answer").last).to_have_attribute("aria-pressed", "false")
    await expect(page.get_by_role("list", name="Sources").get_by_role("link")).to_have_text(["1Atlas"])
    await expect(page.get_by_text("Stopped. The whole answer is kept.")).to_be_in_viewport()

    # What the reader sees stays where it is when earlier messages come above it.
    seen = page.get_by_text("Three?")
    await page.get_by_role("log").evaluate("log => log.scrollTop = 0")
    before: Any = await seen.bounding_box()
    await page.get_by_role("button", name="Earlier messages").click()
    await expect(questions(page)).to_have_text(["One?", "Two?", "", "Three?", "Four?"])
    await expect(answers(page).first).to_have_text("One.")
    await expect(page.get_by_role("button", name="Earlier messages")).to_have_count(0)
    after: Any = await seen.bounding_box()
    assert abs(after["y"] - before["y"]) < 2

    await answer_next(page, "Four.")
    await page.get_by_role("button", name="Retry").click()
    await expect(answers(page).last).to_have_text("Four.")
    [again] = [request for request in made if request.method == "POST"]
    assert again.headers["idempotency-key"] == "b"
    assert await page.evaluate("Object.keys(localStorage).filter(name => name.includes(' pending '))") == [
        f"{kept} pending c"
    ]

    # Another tab asks what nobody answers, and then what somebody does.
    for answering, text in ((False, "This question was not answered."), (True, "The answer is being written…")):
        parts[None] = {"data": [item(7, "Five?", answering=answering)], "has_more": False, "after": None}
        await page.evaluate(f"dispatchEvent(new StorageEvent('storage', {{ key: '{kept} pending d' }}))")
        await expect(questions(page)).to_have_text(["Five?"])
        await expect(page.get_by_text(text)).to_be_visible()
        await expect(page.get_by_role("button", name="Retry")).to_have_count(int(not answering))

    # The service does not know the conversation, which was made up.
    await page.unroute_all()
    await page.reload()
    await expect(page.get_by_text("The earlier conversation no longer exists. A new one begins here.")).to_be_visible()
    await expect(questions(page)).to_have_count(0)
    assert await page.evaluate(f"'{kept} session' in localStorage") is False


async def test_a_reader_says_why_an_answer_is_good_or_bad(service: Service, visit: Visit) -> None:
    page = await visit(service, viewport={"width": 400, "height": 420}, script=LISTEN)
    await open_chat(page)
    await answer_next(page, "On two legs.")
    await ask(page, "How does it walk?")
    made = requests_of(page, "feedback")
    await page.route("**/feedback", lambda route: route.fulfill(status=204, headers=HEADERS))
    good, bad = (page.get_by_role("button", name=name) for name in ("Good answer", "Bad answer"))
    thanks = page.get_by_text("Thank you for your feedback.")
    await bad.click()
    # All reasons are seen, although the answer ends at the lower edge.
    await expect(page.get_by_role("button", name="Something else…")).to_be_in_viewport(ratio=1)
    await page.get_by_role("button", name="Incorrect").click()
    await expect(thanks).to_be_visible()
    await expect(bad).to_have_attribute("aria-pressed", "true")

    await good.click()
    await expect(good).to_have_attribute("aria-pressed", "true")
    await expect(bad).to_have_attribute("aria-pressed", "false")
    await expect(thanks).to_have_count(0)
    other = page.get_by_role("button", name="Something else…")
    await other.click()
    await expect(page.get_by_role("textbox")).to_have_accessible_name("Your reason")
    await page.keyboard.press("Escape")
    await other.click()
    await page.keyboard.press("Enter")
    await page.keyboard.type("It is clear.")
    await page.keyboard.press("Enter")
    await expect(thanks).to_be_visible()
    await expect(page.get_by_role("textbox")).to_have_accessible_name("Your question")
    assert [json.loads(request.post_data or "") for request in made if request.method == "PUT"] == [
        {"rating": "negative"},
        {"rating": "negative", "comment": "Incorrect"},
        {"rating": "positive"},
        {"rating": "positive", "comment": "It is clear."},
    ]
    told = await page.evaluate("told")
    assert [detail["rating"] for name, detail in told if name == "feedback"] == ["negative"] * 2 + ["positive"] * 2


async def test_a_phone_shows_the_chat_alone_and_goes_to_the_page_that_a_link_leads_to(
    service: Service, visit: Visit
) -> None:
    page = await visit(service, **PHONE)
    is_held = "getComputedStyle(document.documentElement).overflow === 'hidden'"
    dialog, bubble = page.get_by_role("dialog"), page.locator("book-chat .bubble")
    await page.evaluate("getSelection().selectAllChildren(document.getElementById('formula'))")
    await answer_next(page, "See [the legs](#formula).")
    await bubble.get_by_role("button", name="Explain").tap()
    await expect(page.get_by_role("blockquote")).to_have_text("The force is $F = ma$, said Newton.")
    # No keyboard covers what the reader opened the chat for.
    await expect(page.get_by_role("heading", name="Ask the book")).to_be_focused()
    assert await dialog.evaluate("dialog => dialog.matches(':modal')")
    assert await dialog.bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 740}
    assert await page.evaluate(is_held)
    await page.keyboard.press("Escape")
    # What was asked about is not offered again, although it is still selected.
    await page.evaluate("dispatchEvent(new Event('resize'))")
    await drawn(page)
    await expect(bubble).to_be_hidden()
    assert await page.evaluate("getSelection().toString()") != ""
    await page.get_by_role("button", name="Ask the book").tap()
    await page.get_by_role("link", name="the legs").tap()
    await expect(dialog).to_have_count(0)
    assert page.url == "http://localhost:3000/#formula"
    assert not await page.evaluate(is_held)

    # The gesture that goes back leads to the conversation first.
    await page.get_by_role("button", name="Ask the book").tap()
    await page.get_by_role("button", name="Conversations", exact=True).tap()
    await dialog.dispatch_event("cancel")
    await expect(page.get_by_role("button", name="Conversations", exact=True)).to_be_focused()
    # A phone that is turned on its side, or a window that is made larger.
    await page.set_viewport_size({"width": 1000, "height": 740})
    await expect(dialog).to_be_visible()
    assert not await dialog.evaluate("dialog => dialog.matches(':modal')")
    assert not await page.evaluate(is_held)

    # A screen that is zoomed to 400 % still shows what is to be pressed, and most of it the conversation.
    await page.set_viewport_size({"width": 320, "height": 256})
    for name in ("Close", "New conversation", "Send"):
        await expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    await expect(page.get_by_role("textbox")).to_be_in_viewport(ratio=1)
    log: Any = await page.get_by_role("log").bounding_box()
    assert log["height"] >= 130


async def test_what_readers_say_of_themselves_is_sent_until_they_delete_it(service: Service, visit: Visit) -> None:
    page = await visit(service)
    made = requests_of(page, "chat/stream")
    await page.route(
        "**/features.js",
        lambda route: route.fulfill(
            body="export const mcp = true;",
            content_type="text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        ),
    )
    await open_chat(page)
    more = page.get_by_role("button", name="More", exact=True)
    language = page.get_by_role("combobox", name="Language of the answers")
    text = page.get_by_role("textbox", name="A sentence about me")
    saved = page.get_by_role("status").filter(has_text="Saved")
    await more.click()
    await page.get_by_role("menuitem", name="About me").click()
    await expect(language).to_be_focused()
    await expect(page.get_by_role("button", name="Delete", exact=True)).to_have_count(0)
    await language.select_option("de")
    await page.get_by_role("button", name="Save").click()
    await expect(saved).to_have_count(1)
    await language.select_option("ur")
    await expect(saved).to_have_count(0)
    await page.get_by_role("combobox", name="What I know of the subject").select_option("I am new to it")
    await text.fill("  I am a nurse. ")
    await page.get_by_role("button", name="Save").click()
    await expect(saved).to_have_count(1)
    await page.get_by_role("button", name="Conversation", exact=True).click()
    await expect(more).to_be_focused()
    await answer_next(page, "Six.")
    await ask(page, "How many legs?")
    await expect(answers(page)).to_have_text("Six.")

    await page.reload()
    await more.click()
    await page.get_by_role("menuitem", name="About me").click()
    await expect(language).to_have_value("ur")
    await expect(text).to_have_value("I am a nurse.")
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(saved).to_have_count(1)
    await expect(language).to_have_value("")
    await expect(language).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(more).to_be_focused()
    await answer_next(page, "Two.")
    await ask(page, "And arms?")
    await expect(answers(page).last).to_have_text("Two.")
    bodies = [json.loads(request.post_data or "") for request in made if request.method == "POST"]
    note = "Please answer in Urdu.\nWhat I know of the subject: I am new to it\nI am a nurse."
    assert [body.get("reader_note") for body in bodies] == [note, None]

    await more.click()
    await page.get_by_role("menuitem", name="Use this book in your assistant").click()
    await expect(page.get_by_role("heading", name="Use this book in your assistant")).to_be_focused()
    await expect(page.get_by_text(f"{str(service.client.base_url).rstrip('/')}/mcp", exact=True)).to_be_visible()
