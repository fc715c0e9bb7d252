"""What the widget is to its readers: what they see, hear and press, in every kind of window; and what no answer can do to them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser import (
    PHONE,
    TOOLS,
    Visit,
    accessibility_findings,
    answers,
    ask,
    needs_chromium,
    open_chat,
    questions,
)
from tests.conftest import Serve, Service
from tests.fake_openai import Exchange, FakeOpenAI, chunk, failure, held, stream
from tests.marks import on_one_database

pytestmark = [needs_chromium, on_one_database]

needs_axe = pytest.mark.skipif(not (TOOLS / "axe-core").exists(), reason="npm ci has not been run in tools")

URDU = {"lang": "ur", "direction": "rtl"}

RICH = r"""A *humanoid* has **two** legs[^1], `snake_case_name` and $E = mc^2$:

$$
\begin{aligned} x &= l_1 \cos q_1 \\ y &= l_1 \sin q_1 \end{aligned}
$$

## A heading

1. One
2. Two
   - nested
   - [x] done

| robot | legs | gait of the robot | remarks about it |
|---|--:|---|---|
| Atlas | 2 | walks | none |
| a hexapod of which there is a lot to say in one cell | 6 | a tripod gait | three legs are always on the ground |

```python
print("a line of code that is certainly much longer than the panel is wide, so that it has to scroll by itself")
```

> A quotation.

It costs $5 or $10, and Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft costs more.
"""

GROWING = """A heading
--

Another one
===

| a | b |
|---|---|
| 1 | 2 |

- one
- two

- three

  with a paragraph

      and code

1. first
   ```sh
   ls
   ```
2. second

Text
- not a list, or is it
> quoted
and goes on

~~~
open
~~~

See [the page] and [1].

[the page]: https://book.example.org/page

***
Last *words* with `code` and **strong
text**.
"""

HOSTILE = """# <img src="https://evil.example/heading.png" onerror="steal()">

![tracker](https://evil.example/image.png) <script>steal()</script> <iframe src="https://evil.example"></iframe>

[one](javascript:steal()) [two](JaVaScRiPt:steal()) [three](data:text/html,x) [four](vbscript:x) <javascript:steal()>
[five]: javascript:steal()
[five] [six](https://evil.example/page) &#106;avascript &lt;b&gt;

<style>* { display: none }</style>

$\\href{javascript:steal()}{x}$ $\\includegraphics{https://evil.example/x.png}$
"""


async def test_an_answers_markdown_and_formulas_are_shown(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream(*pieces(RICH, 7)))
    page = await visit(service)
    await open_chat(page)
    await ask(page, "Show me everything")
    await expect(page.get_by_role("button", name="Good answer")).to_be_visible()

    answer = answers(page)
    await expect(answer.locator("em")).to_have_text("humanoid")
    await expect(answer.locator("strong")).to_have_text("two")
    await expect(answer.locator("p code")).to_have_text("snake_case_name")
    await expect(answer.locator("math annotation").first).to_have_text("E = mc^2")
    await expect(answer.locator("math[display=block] mtr")).to_have_count(2)
    await expect(answer.get_by_role("heading", name="A heading")).to_be_visible()
    await expect(answer.locator("ol > li")).to_have_count(2)
    await expect(answer.locator("li.task")).to_contain_text("done")
    await expect(answer.get_by_role("columnheader")).to_have_text(
        ["robot", "legs", "gait of the robot", "remarks about it"]
    )
    await expect(answer.locator("blockquote")).to_have_text("A quotation.")
    await expect(answer.locator("p").last).to_contain_text("It costs $5 or $10")
    assert await answer.locator("pre").get_attribute("dir") == "ltr"

    # Only what is too wide scrolls, and that by itself.
    log = page.get_by_role("log")
    assert await log.evaluate("log => log.scrollWidth <= log.clientWidth")
    for part in (answer.locator("pre"), answer.locator(".table")):
        assert await part.evaluate("part => part.scrollWidth > part.clientWidth")


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 29])
async def test_an_answer_that_grows_is_always_shown_as_if_it_had_come_at_once(
    service: Service, visit: Visit, step: int
) -> None:
    page = await visit(service)
    different, copied = await page.evaluate(
        """async ([folder, texts, step]) => {
          const copied = [];
          navigator.clipboard.writeText = async text => copied.push(text);
          const { Answer } = await import(`${folder}answer.js`);
          const { wordsFor } = await import(`${folder}languages.js`);
          const answer = () => new Answer(document.createElement("div"), { ...wordsFor("en"), onVisit() {} });
          const first = answer();
          first.show("$x$");
          while (!first.element.querySelector("math")) await new Promise(requestAnimationFrame);
          for (const text of texts) {
            const growing = answer();
            for (let length = 1; length < text.length + step; length += step) {
              const whole = answer();
              growing.show(text.slice(0, length));
              whole.show(text.slice(0, length));
              if (!growing.element.isEqualNode(whole.element))
                return [[text.slice(0, length), growing.element.outerHTML], copied];
            }
            for (const button of growing.element.querySelectorAll(".code button")) button.click();
          }
          return [[], copied];
        }""",
        [f"{service.client.base_url}/widget/".replace("//widget", "/widget"), [RICH, GROWING], step],
    )
    assert different == []
    assert [code[:10] for code in copied] == ['print("a l', "and code", "ls", "open"]
    assert copied[0].endswith('by itself")')


@pytest.mark.slow
async def test_a_formula_that_is_being_written_is_shown_as_such(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    opened, written, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def formula(exchange: Exchange) -> None:
        await exchange.start_stream()
        for piece, gate in (("It is\n\n$$\n", opened), (r"\frac{a", written), ("}{b}\n$$\n\nas one sees.", closed)):
            await exchange.event(chunk({"content": piece}))
            await gate.wait()
        await exchange.event(chunk({}, "stop"))
        await exchange.close()

    model_server.enqueue(formula)
    page = await visit(service)
    await open_chat(page)
    await ask(page, "What is it?")
    await expect(answers(page).locator(".formula")).to_have_count(1)
    await expect(answers(page)).to_have_text("It is")
    opened.set()
    await expect(answers(page).locator(".formula.tex")).to_have_text(r"\frac{a")
    written.set()
    await expect(answers(page).locator("math mfrac")).to_have_count(1)
    await expect(answers(page).locator(".tex")).to_have_count(0)
    closed.set()
    await expect(answers(page).locator("p")).to_have_text(["It is", "as one sees."])


@pytest.mark.slow
async def test_nothing_moves_for_a_reader_who_does_not_want_it(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    count = "document.querySelector('book-chat').shadowRoot.getAnimations().length"
    for motion, moves in (("reduce", False), ("no-preference", True)):
        gate = asyncio.Event()
        model_server.enqueue(held(gate))
        page = await visit(service, reduced_motion=motion)
        await open_chat(page)
        await ask(page, "How does it walk?")
        await expect(page.get_by_text("Looking it up…")).to_be_visible()
        assert (await page.evaluate(count) > 0) is moves
        gate.set()
        await expect(answers(page)).to_be_visible()


@pytest.mark.slow
async def test_a_long_answer_is_read_from_its_beginning_copied_and_read_in_a_wider_panel(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    text = "\n\n".join(f"Paragraph **{number}** of the answer." for number in range(40)) + "\n\n```\nx = 1\n```"
    model_server.enqueue(stream("Short."), stream(*pieces(text, 50)))
    page = await visit(service, permissions=["clipboard-read", "clipboard-write"])
    await open_chat(page)
    await ask(page, "Say little")
    await expect(answers(page)).to_have_text("Short.")
    await ask(page, "Say a lot")
    await expect(page.get_by_role("button", name="Good answer")).to_have_count(2)

    await expect(questions(page).last).to_be_in_viewport(ratio=1)
    await expect(answers(page).last.locator("pre")).not_to_be_in_viewport()
    await page.get_by_role("button", name="Latest message").click()
    await expect(page.get_by_role("button", name="Good answer").last).to_be_in_viewport(ratio=1)
    await expect(page.get_by_role("button", name="Latest message")).to_be_hidden()

    await page.get_by_role("button", name="Copy").last.click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == text
    await answers(page).get_by_role("button", name="Copy").click()
    await expect(page.get_by_role("button", name="Copied")).to_have_count(2)
    assert await page.evaluate("navigator.clipboard.readText()") == "x = 1"

    # Whoever has scrolled back is taken to the question that they ask.
    await page.get_by_role("log").hover()
    await page.mouse.wheel(0, -5000)
    await expect(questions(page).first).to_be_in_viewport(ratio=1)
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    await ask(page, "And now?")
    await expect(questions(page).last).to_be_in_viewport(ratio=1)
    gate.set()

    for name, width in (("Wider", 768), ("Narrower", 416)):
        await page.get_by_role("button", name="More", exact=True).click()
        await page.get_by_role("menuitem", name=name).click()
        box = await page.get_by_role("dialog").bounding_box()
        assert box
        assert box["width"] == width


@pytest.mark.slow
async def test_a_site_can_open_sources_itself(service: Service, visit: Visit, model_server: FakeOpenAI) -> None:
    model_server.enqueue(stream("See [the page](/atlas#legs)."))
    page = await visit(service)
    await page.evaluate(
        """() => addEventListener("book-chat:navigate", event => {
          event.preventDefault();
          globalThis.visited = event.detail.url;
        })"""
    )
    await open_chat(page)
    await ask(page, "Where?")
    await page.get_by_role("link", name="the page").click()
    assert await page.evaluate("visited") == "http://localhost:3000/atlas#legs"
    assert page.url == "http://localhost:3000/"


async def test_no_answer_makes_the_browser_fetch_or_run_anything(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream(*pieces(HOSTILE, 11)))
    page = await visit(service)
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if "evil" in request.url else None)
    await open_chat(page)
    await ask(page, "Be evil")
    await expect(page.get_by_role("button", name="Good answer")).to_be_visible()

    answer = answers(page)
    await expect(answer.get_by_role("heading")).to_contain_text("<img src=")
    await expect(answer).to_contain_text("<script>steal()</script>")
    for tag in ("img", "script", "iframe", "style", "object", "[onerror]", "[style*=url]"):
        await expect(answer.locator(tag)).to_have_count(0)
    links = await answer.locator("a, [href]").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links == ["https://evil.example/page"]
    assert await answer.get_by_role("link").get_attribute("rel") == "noopener noreferrer nofollow"
    assert foreign == []


@pytest.mark.slow
async def test_what_is_selected_is_sent_with_formulas_as_their_source_unless_it_is_removed(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    excerpt = "The force is $F = ma$, said Newton."
    page = await visit(service)
    for attempt in range(2):
        await page.evaluate("getSelection().selectAllChildren(document.getElementById('formula'))")
        # A person's press lasts for several frames.
        await page.get_by_role("button", name="Ask about this").click(delay=200)
        await expect(page.get_by_role("blockquote")).to_have_text([excerpt])
        # What was asked about is not offered again, until it is selected again.
        await page.set_viewport_size({"width": 1200 + attempt, "height": 800})
        await drawn(page)
        await expect(page.get_by_role("button", name="Ask about this")).to_be_hidden()
        await page.get_by_role("button", name="Remove the selected text").click()
        await expect(page.get_by_role("blockquote")).to_have_count(0)
        await page.evaluate("getSelection().removeAllRanges()")
    await ask(page, "What is m?")
    await expect(answers(page)).to_be_visible()
    assert excerpt not in str(model_server.prompt)

    await page.evaluate("getSelection().selectAllChildren(document.getElementById('formula'))")
    await page.get_by_role("button", name="Ask about this").click()
    await ask(page, "And what is m here?")
    await expect(answers(page).last).to_have_text("Answer 2 to: And what is m here?")
    assert excerpt in str(model_server.prompt)


@pytest.mark.slow
async def test_text_outside_the_book_is_not_asked_about(service: Service, visit: Visit) -> None:
    page = await visit(service)
    bubble = page.get_by_role("button", name="Ask about this")
    await open_chat(page)
    await ask(page, "How does it walk?")
    await expect(answers(page)).to_be_visible()

    for outside in (page.get_by_text("Menu of the book"), answers(page)):
        await outside.click(click_count=3)
        await drawn(page)
        await expect(bubble).to_be_hidden()
    await page.get_by_text("Atlas walks").click(click_count=3)
    await expect(bubble).to_be_visible()


@pytest.mark.slow
async def test_the_owner_of_the_book_says_what_it_is_called_and_where_its_text_is(
    service: Service, visit: Visit
) -> None:
    body = "<div class=text><p>Spot trots.</p></div><article><p>An advertisement.</p></article>"
    page = await visit(service, body=body, attributes='data-title="Ask Atlas" data-selector=".text"')
    await page.get_by_text("An advertisement.").click(click_count=3)
    await drawn(page)
    await expect(page.get_by_role("button", name="Ask about this")).to_be_hidden()

    await page.get_by_text("Spot trots.").click(click_count=3)
    await page.get_by_role("button", name="Ask about this").click()
    await expect(page.get_by_role("dialog", name="Ask Atlas")).to_be_visible()
    await expect(page.get_by_role("blockquote")).to_have_text("Spot trots.")


@pytest.mark.slow
async def test_an_empty_conversation_suggests_what_the_page_is_about(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)

    await page.get_by_role("button", name="Explain “Six legs”").click()
    await expect(questions(page)).to_have_text(["Explain “Six legs”"])
    await expect(answers(page)).to_have_text("Answer 1 to: Explain “Six legs”")


async def test_the_keyboard_is_enough(  # noqa: PLR0915  # One page for all of it.
    service: Service, visit: Visit
) -> None:
    page = await visit(service, attributes='data-shortcut="?"')
    launcher, textbox = page.get_by_role("button", name="Ask the book"), page.get_by_role("textbox")
    await expect(launcher).to_have_attribute("aria-keyshortcuts", "?")
    await launcher.focus()
    await page.keyboard.press("Enter")
    await expect(textbox).to_be_focused()

    # What is written in the chat is no shortcut of the page, whose scripts take it for a field.
    heard = ["keydown", "keypress", "keyup", "beforeinput", "input", "copy", "cut", "paste"]
    heard += ["compositionstart", "compositionupdate", "compositionend"]
    await page.evaluate(
        """names => {
          globalThis.heard = [];
          for (const name of names) addEventListener(name, ({ type }) => heard.push(type));
        }""",
        heard,
    )
    for name in heard[5:]:
        await textbox.dispatch_event(name)
    assert await page.evaluate("document.activeElement.isContentEditable")
    await page.keyboard.type("First line?")
    height = await textbox.evaluate("textbox => textbox.clientHeight")
    await page.keyboard.press("Shift+Enter")
    for how in ({"isComposing": True}, {"keyCode": 229}):
        await textbox.dispatch_event("keydown", {"key": "Enter", **how})
    await textbox.dispatch_event("keydown", {"key": "Escape", "isComposing": True})
    await page.keyboard.type("second line")
    await expect(questions(page)).to_have_count(0)
    assert await textbox.evaluate("textbox => textbox.clientHeight") > height
    assert await page.evaluate("heard") == []
    await page.keyboard.press("Enter")
    await expect(questions(page)).to_have_text(["First line?\nsecond line"])
    await expect(textbox).to_be_focused()

    await textbox.fill("Third line")
    await page.get_by_role("button", name="Send").focus()
    await page.keyboard.press("Enter")
    await expect(questions(page).nth(1)).to_have_text("Third line")
    await expect(textbox).to_be_focused()

    await page.get_by_role("button", name="More").focus()
    await page.keyboard.press("Enter")
    items = page.get_by_role("menuitem")
    await expect(page.get_by_role("button", name="More")).to_have_attribute("aria-expanded", "true")
    await page.keyboard.press("ArrowUp")
    await expect(items.last).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await expect(items.first).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(items).to_have_count(0)
    await page.keyboard.press("ArrowDown")
    await expect(items.first).to_be_focused()
    await page.keyboard.press("End")
    await expect(items.last).to_be_focused()
    await page.keyboard.press("Home")
    await expect(items.first).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(items).to_have_count(0)
    await expect(page.get_by_role("button", name="More")).to_have_attribute("aria-expanded", "false")

    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(launcher).to_be_focused()
    # It stays closed on the next page.
    await page.reload()
    await expect(launcher).to_have_attribute("aria-keyshortcuts", "?")
    await page.keyboard.press("?")
    await expect(textbox).to_be_focused()


@pytest.mark.slow
async def test_what_is_typed_has_the_direction_of_its_own_language(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    textbox = page.get_by_role("textbox", name="Your question")
    for text, direction in (("یہ کیسے چلتا ہے؟", "rtl"), ("How does it walk?", "ltr")):
        await textbox.fill(text)
        assert await textbox.evaluate("textbox => getComputedStyle(textbox).direction") == direction


@pytest.mark.slow
async def test_what_is_typed_is_still_there_after_a_reload_and_nobody_has_been_told(
    service: Service, visit: Visit
) -> None:
    page = await visit(service)
    told: list[str] = []
    address = str(service.client.base_url)
    page.on("request", lambda request: told.append(request.url) if request.url.startswith(address) else None)
    await open_chat(page)
    await page.get_by_role("textbox").fill("How does it")
    await page.reload()
    await expect(page.get_by_role("textbox")).to_have_value("How does it")
    assert await page.evaluate("document.activeElement === document.body")
    await page.get_by_role("button", name="Close").click()
    await page.reload()
    await expect(page.get_by_role("button", name="Ask the book")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert [url for url in told if not url.endswith(".js")] == []


@pytest.mark.slow
async def test_a_finished_answer_is_announced_once(service: Service, visit: Visit, model_server: FakeOpenAI) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("On two ", "legs.", gate=gate))
    page = await visit(service)
    await open_chat(page)
    await page.evaluate(
        """() => {
          const status = document.querySelector("book-chat").shadowRoot.querySelector("[role=status]");
          globalThis.announced = [];
          new MutationObserver(() => announced.push(status.textContent)).observe(status, {childList: true, subtree: true});
        }"""
    )
    await ask(page, "How does it walk?")
    await expect(answers(page)).to_have_text("On two")
    assert await page.evaluate("announced") == []
    gate.set()
    await expect(page.get_by_role("button", name="Good answer")).to_be_visible()

    assert await page.evaluate("announced") == ["Answer: On two legs."]
    await expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")


@pytest.mark.slow
async def test_on_a_phone_the_chat_fills_the_screen_and_holds_the_focus(service: Service, visit: Visit) -> None:
    page = await visit(service, **PHONE)
    await page.get_by_role("button", name="Ask the book").tap()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()

    assert await dialog.evaluate("dialog => dialog.matches(':modal')")
    box = await dialog.bounding_box()
    assert box
    assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 390, 740)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.get_by_role("textbox").fill("How does it walk?")
    await page.get_by_role("button", name="Send").tap()
    await expect(answers(page)).to_have_text("Answer 1 to: How does it walk?")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)

    # A phone that is turned on its side, or a window that is made larger.
    await page.get_by_role("button", name="Ask the book").tap()
    await page.set_viewport_size({"width": 1000, "height": 740})
    await expect(dialog).to_be_visible()
    assert not await dialog.evaluate("dialog => dialog.matches(':modal')")

    # The smallest window shows everything that is to be pressed.
    await page.set_viewport_size({"width": 320, "height": 420})
    for name in ("Close", "New conversation", "Send"):
        await expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    await expect(page.get_by_role("textbox")).to_be_in_viewport(ratio=1)


@pytest.mark.slow
async def test_an_urdu_page_gets_urdu_words_from_right_to_left_and_a_finnish_one_english_ones(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream("روبوٹ ایک **مشین** ہے\n\n- `encoder`\n- دوسرا\n\n```python\nx = 1\n```"), failure(500))
    page = await visit(service, **URDU)
    await page.get_by_role("button", name="کتاب سے پوچھیں").click()
    dialog, textbox = page.get_by_role("dialog"), page.get_by_role("textbox", name="آپ کا سوال")
    assert await dialog.evaluate("dialog => getComputedStyle(dialog).direction") == "rtl"
    box = await dialog.bounding_box()
    assert box
    assert box["x"] < 100

    await textbox.fill("روبوٹ کیا ہے؟")
    await page.get_by_role("button", name="بھیجیں").click()
    await expect(page.get_by_role("button", name="اچھا جواب")).to_be_visible()
    for selector, direction in {"p": "rtl", "ul": "rtl", "li": "rtl", "pre": "ltr"}.items():
        found = answers(page).locator(selector).first
        assert await found.evaluate("element => getComputedStyle(element).direction") == direction, selector

    await textbox.fill("اور؟")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("معاون جواب نہیں دے سکا")
    await expect(page.get_by_role("button", name="دوبارہ کوشش کریں")).to_be_visible()

    page = await visit(service, lang="fi-FI")
    await open_chat(page)
    assert await page.locator("book-chat").get_attribute("lang") == "en"


@pytest.mark.slow
async def test_the_buttons_stand_out_from_any_colour_of_the_book(service: Service, visit: Visit) -> None:
    page = await visit(service)
    button = page.get_by_role("button", name="Ask the book")
    for primary in ("#25c2a0", "#ffd400", "#3578e5", "#111111", "#ffffff", "#ff00ff"):
        await page.evaluate(f"document.documentElement.style.setProperty('--ifm-color-primary', '{primary}')")
        assert await contrast(button) >= 4.5, primary


async def contrast(button: Locator) -> float:
    """How much a button's text stands out from its background, as WCAG measures it."""
    ratio: float = await button.evaluate(
        """button => {
          const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
          const luminance = colour => {
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255);
            const [r, g, b] = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const {color, backgroundColor} = getComputedStyle(button);
          const [dark, light] = [luminance(color), luminance(backgroundColor)].sort((a, b) => a - b);
          return (light + 0.05) / (dark + 0.05);
        }"""
    )
    return ratio


@pytest.mark.slow
@needs_axe
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="laptop", marks=pytest.mark.slow),
        pytest.param({**URDU, **PHONE}, id="urdu phone", marks=pytest.mark.slow),
        pytest.param(PHONE, id="phone"),
    ],
)
async def test_axe_finds_no_fault_in_light_or_dark(
    service: Service, visit: Visit, model_server: FakeOpenAI, how: dict[str, Any]
) -> None:
    async def findings() -> list[str]:
        found = []
        for scheme in ("light", "dark"):
            # The page has the scheme that it says it has, and the widget that of the page.
            await page.evaluate("scheme => document.documentElement.style.colorScheme = scheme", scheme)
            found += [f"{scheme}: {finding}" for finding in await accessibility_findings(page)]
        return found

    model_server.enqueue(stream(RICH), failure(500))
    page = await visit(service, **how)
    await page.evaluate("document.documentElement.style.background = 'Canvas'")
    await page.get_by_text("Atlas walks").click(click_count=3)
    await expect(page.get_by_role("button").filter(visible=True)).to_have_count(5)
    assert await findings() == []
    await page.get_by_role("button").filter(visible=True).first.click()
    textbox = page.get_by_role("textbox")
    await expect(textbox).to_be_visible()
    assert await findings() == []

    await textbox.fill("Show me everything")
    await page.keyboard.press("Enter")
    await expect(page.locator("book-chat .actions")).to_be_visible()
    await page.locator("book-chat .actions .icon-button").last.click()
    await expect(page.locator("book-chat .reasons")).to_be_visible()
    await textbox.fill("And fail")
    await page.keyboard.press("Enter")
    await expect(page.locator("book-chat .problem")).to_be_visible()
    assert await findings() == []


@pytest.mark.slow
async def test_of_a_long_answer_only_the_end_is_drawn_again_as_it_grows(
    service: Service, visit: Visit, model_server: FakeOpenAI
) -> None:
    text = (RICH + "\n\n") * 15

    async def at_a_models_pace(exchange: Exchange) -> None:
        await exchange.start_stream()
        for piece in pieces(text, 25):
            await exchange.event(chunk({"content": piece}))
            await asyncio.sleep(0.004)
        await exchange.event(chunk({}, "stop"))
        await exchange.close()

    model_server.enqueue(at_a_models_pace)
    page = await visit(service)
    await open_chat(page)
    await page.evaluate(
        """() => {
          globalThis.drawn = [];
          globalThis.sizeOf = node => 1 + [...node.childNodes].reduce((sum, child) => sum + sizeOf(child), 0);
          const log = document.querySelector("book-chat").shadowRoot.querySelector("[role=log]");
          new MutationObserver(records => {
            const added = new Set(records.flatMap(({ addedNodes }) => [...addedNodes]));
            drawn.push([...added].reduce((sum, node) => sum + sizeOf(node), 0));
          }).observe(log, { childList: true, subtree: true });
        }"""
    )
    await ask(page, "Say a lot")
    await expect(page.get_by_role("button", name="Good answer")).to_be_visible()

    drawn: list[int] = await page.evaluate("drawn")
    nodes: int = await answers(page).evaluate("answer => sizeOf(answer)")
    assert len(text) > 9_000
    assert len(drawn) > 10
    # Each node once, however few times a slow machine draws, and the end of the answer each time: all of it would be half of the
    # nodes each time. The last time draws all of it once more, with what it cites.
    assert sum(drawn[:-1]) < nodes + len(drawn) * nodes / 8, (drawn, nodes)


@pytest.mark.slow
async def test_the_page_at_the_root_shows_the_sample_book_with_the_widget(serve: Serve, visit: Visit) -> None:
    service = await serve(FASTAPI_ENV="development")
    page = await visit(service)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(str(service.client.base_url))

    await expect(page.get_by_role("heading", level=1, name="What is a robot?")).to_be_visible()
    await page.get_by_text("A robot is a machine").click(click_count=3)
    await page.get_by_role("button", name="Ask about this").click()
    await ask(page, "What is it?")
    await expect(answers(page)).to_have_text("Answer 1 to: What is it?")
    assert complaints == []
    if (TOOLS / "axe-core").exists():
        assert await accessibility_findings(page) == []


@pytest.mark.slow
async def test_a_chat_that_cannot_be_loaded_says_so_and_is_loaded_again(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await page.route("**/panel.js*", lambda route: route.abort())
    await page.get_by_role("button", name="Ask the book").click()
    await expect(page.get_by_role("alert")).to_have_text("The chat could not be loaded. Please try again.")

    await page.unroute_all()
    await open_chat(page)
    await expect(page.get_by_role("alert")).to_have_count(0)


def pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


async def drawn(page: Page) -> None:
    """Wait until the page has had time to react to what happened."""
    await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
