"""The widget on books of every make, with the same checks on each: what a page does to all it has, it does not do to the chat."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests import sites
from tests.browser import BRIGHTNESS, Visit, answers, becomes, built_site, needs_chromium
from tests.conftest import Service
from tests.marks import on_one_database

pytestmark = [needs_chromium, on_one_database, pytest.mark.slow, pytest.mark.timeout(900)]

WATCH_SHIFTS = """
globalThis.shift = 0;
// Some themes shift their own text while their fonts arrive. An entry's node is null for elements in the chat's shadow tree.
const isOfTheChat = ({node}) => node === null || node.nodeName === "BOOK-CHAT" || node === document.documentElement;
new PerformanceObserver(list => {
  for (const {sources, value} of list.getEntries()) if (!sources.length || sources.some(isOfTheChat)) shift += value;
}).observe({type: "layout-shift", buffered: true});
"""
WHERE_THINGS_ARE = """() => [...document.querySelectorAll("body > :not(book-chat), h1, h2, p")]
  .map(({offsetLeft, offsetTop, offsetWidth}) => [offsetLeft, offsetTop, offsetWidth])"""


@dataclass(frozen=True)
class Site:
    """A book, and what differs from one make to another."""

    name: str
    build: Callable[[], Path]
    dark: str
    """What the theme's own switch does, as JavaScript."""
    link: str = "the balance"
    changes_without_reload: bool = True
    has_accent: bool = True


SITES = [
    Site("docusaurus", built_site, "document.documentElement.dataset.theme = 'dark'", link="balance"),
    Site("vitepress", lambda: sites.built("vitepress"), "document.documentElement.classList.add('dark')"),
    Site("material", lambda: sites.built("material"), "document.body.dataset.mdColorScheme = 'slate'"),
    Site(
        "furo",
        lambda: sites.built("furo"),
        "document.body.dataset.theme = 'dark'",
        changes_without_reload=False,
    ),
    Site(
        "pydata",
        lambda: sites.built("pydata"),
        "document.documentElement.dataset.theme = 'dark'",
        changes_without_reload=False,
    ),
    Site("turbo", lambda: sites.built("turbo"), "document.documentElement.classList.add('dark')", has_accent=False),
]


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
async def test_the_chat_is_the_same_on_every_site(service: Service, visit: Visit, site: Site) -> None:
    page = await visit(
        service, files=site.build(), script=WATCH_SHIFTS, color_scheme="light", viewport={"width": 1280, "height": 720}
    )
    launcher = page.get_by_role("button", name="Ask the book")
    await expect(launcher).to_be_visible()

    await _has_its_own_place_and_size(page)
    await _offers_what_is_selected(page)
    await _keeps_its_keys(page)
    await _takes_the_colours(page, site)
    await _stays_from_page_to_page(page, site)
    await _follows_the_language(page)


async def _has_its_own_place_and_size(page: Page) -> None:
    box = await page.get_by_role("button", name="Ask the book").bounding_box()
    assert box
    assert 40 <= box["height"] <= 50
    width = await page.evaluate("document.documentElement.clientWidth")  # Less a scroll bar, if there is one.
    assert (round(box["x"] + box["width"]), round(box["y"] + box["height"])) == (width - 20, 700)
    await page.get_by_role("button", name="Ask the book").click()
    await expect(page.get_by_role("textbox", name="Your question")).to_be_visible()
    box = await page.locator("book-chat dialog").bounding_box()
    assert box
    assert (round(box["x"]), round(box["y"]), round(box["width"]), round(box["height"])) == (width - 436, 20, 416, 680)
    assert await page.locator("book-chat dialog").evaluate("dialog => getComputedStyle(dialog).fontSize") == "15px"
    assert await page.evaluate("shift") == 0
    with_chat = await page.evaluate(WHERE_THINGS_ARE)
    await page.locator("book-chat").evaluate("chat => { chat.style.display = 'none'; }")
    assert await page.evaluate(WHERE_THINGS_ARE) == with_chat
    await page.locator("book-chat").evaluate("chat => { chat.style.display = ''; }")


async def _offers_what_is_selected(page: Page) -> None:
    paragraph = page.get_by_text("The angles of the joints").or_(page.get_by_text("The hand of an arm")).first
    await paragraph.click(click_count=3, position={"x": 5, "y": 5})
    await page.get_by_role("button", name="Ask about this").click()
    await expect(page.get_by_role("blockquote")).to_be_visible()
    await page.get_by_role("button", name="Remove the selected text").click()


async def _keeps_its_keys(page: Page) -> None:
    before = page.url
    textbox = page.get_by_role("textbox", name="Your question")
    await textbox.focus()
    await page.keyboard.type("and/or s? n.p")
    for key in ("ArrowLeft", "ArrowRight", "Home", "End"):
        await page.keyboard.press(key)
    await page.keyboard.type("!")
    await expect(textbox).to_have_value("and/or s? n.p!")
    await expect(textbox).to_be_focused()
    assert page.url == before
    await textbox.fill("")


async def _takes_the_colours(page: Page, site: Site) -> None:
    await becomes(page, f"{BRIGHTNESS} > 240")
    accent = await page.locator("book-chat").evaluate("chat => getComputedStyle(chat).getPropertyValue('--accent')")
    assert (accent != "rgb(31, 111, 235)") is site.has_accent, accent
    await page.evaluate(site.dark)
    await becomes(page, f"{BRIGHTNESS} < 60")


async def _stays_from_page_to_page(page: Page, site: Site) -> None:
    await expect(page.get_by_role("button", name="Summarise “Kinematics”")).to_be_visible()
    await page.evaluate("globalThis.isSamePage = true")
    # The chat may cover it.
    await page.get_by_role("link", name=site.link, exact=True).evaluate("link => link.click()")
    await expect(page.get_by_role("heading", level=1).filter(has_text="Balance")).to_be_visible()
    await expect(page.get_by_role("button", name="Summarise “Balance”")).to_be_visible()
    assert await page.evaluate("Boolean(globalThis.isSamePage)") is site.changes_without_reload
    await page.get_by_role("textbox", name="Your question").fill("What keeps it up?")
    await page.get_by_role("button", name="Send").click()
    await expect(answers(page)).to_contain_text("to: What keeps it up?")
    await page.go_back()
    await expect(page.get_by_role("heading", level=1).filter(has_text="Kinematics")).to_be_visible()
    await expect(answers(page)).to_contain_text("to: What keeps it up?")
    await expect(page.locator("book-chat")).to_have_count(1)


async def _follows_the_language(page: Page) -> None:
    await page.evaluate("document.documentElement.lang = 'ur'")
    dialog = page.get_by_role("dialog", name="کتاب سے پوچھیں")
    await expect(dialog).to_be_visible()
    await expect(answers(page)).to_contain_text("to: What keeps it up?")
    box: Any = await dialog.bounding_box()
    assert box["x"] == 20
