"""The widget on a real Docusaurus site: one line of its configuration, and everything of the site goes on working."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from app.retrieval import Passage, Query
from tests.browser import (
    PHONE,
    TOOLS,
    Visit,
    accessibility_findings,
    answers,
    ask,
    built_site,
    needs_chromium,
    open_chat,
    questions,
)
from tests.conftest import ORIGIN, PlugIn, Service
from tests.fake_openai import FakeOpenAI, stream
from tests.marks import on_one_database

pytestmark = [needs_chromium, on_one_database, pytest.mark.slow, pytest.mark.timeout(900)]

ZERO_MOMENT_POINT = f"{ORIGIN}/balance#the-zero-moment-point"


@pytest.fixture(scope="session")
def site() -> Path:
    """The built site."""
    return built_site()


@pytest.fixture
def book(plug_in: PlugIn) -> list[Query]:
    """The retriever finds the other page; gives what it is asked."""
    queries: list[Query] = []

    async def retriever(query: Query) -> Sequence[Passage]:
        queries.append(query)
        return [Passage(text="It stays inside the sole of the foot.", source=ZERO_MOMENT_POINT, title="Balance")]

    plug_in(retriever)
    return queries


async def test_a_source_opens_its_page_without_a_reload_and_the_conversation_goes_on(
    service: Service, visit: Visit, site: Path, book: list[Query], model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream("It stays inside the sole [1]."))
    page = await visit(service, files=site)
    await open_chat(page)
    await expect(page.get_by_role("button", name="Summarise “Kinematics”")).to_be_visible()
    await page.evaluate("globalThis.isSamePage = true")
    await ask(page, "What keeps it up?")

    await page.get_by_role("link", name="Source 1: Balance").click()
    await expect(page).to_have_url(ZERO_MOMENT_POINT)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Balance")
    await expect(page.get_by_role("heading", name="The zero moment point")).to_be_in_viewport()
    await expect(answers(page)).to_have_text("It stays inside the sole1.")
    assert await page.evaluate("isSamePage")
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Kinematics")
    await page.get_by_role("link", name="balance", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Balance")

    await page.get_by_role("button", name="New conversation").click()
    await expect(page.get_by_role("button", name="Summarise “Balance”")).to_be_visible()
    await ask(page, "And now?")
    await expect(answers(page)).to_have_text("Answer 2 to: And now?")
    # The pages say where the site really is.
    assert [query.page_url for query in book] == ["https://book.example.org/", "https://book.example.org/balance"]


async def test_text_is_asked_about_with_its_formulas_and_what_is_beside_it_is_not(
    service: Service, visit: Visit, site: Path, model_server: FakeOpenAI
) -> None:
    page = await visit(service, files=site)
    bubble = page.get_by_role("button", name="Ask about this")
    await expect(page.get_by_role("button", name="Ask the book")).to_be_visible()
    for outside in (".navbar__title", ".breadcrumbs__item--active .breadcrumbs__link"):
        await page.locator(outside).evaluate("element => getSelection().selectAllChildren(element)")
        await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        await expect(bubble).to_be_hidden()
    await page.locator("h2").first.evaluate("heading => getSelection().selectAllChildren(heading)")
    await bubble.click()
    await expect(page.get_by_role("blockquote")).to_have_text("Forward kinematics")

    paragraph = page.locator("article p").filter(has_text="The hand of an arm")
    await paragraph.evaluate("paragraph => getSelection().selectAllChildren(paragraph)")
    await bubble.click()
    excerpt = r"The hand of an arm with one link of length $l$ is at the height $y = l \sin q$, as one sees."
    await expect(page.get_by_role("blockquote")).to_have_text(excerpt)
    await ask(page, "What is q?")
    await expect(answers(page)).to_be_visible()
    assert excerpt in model_server.prompt[1]["content"]


@pytest.mark.usefixtures("book")
async def test_the_chat_is_dark_when_the_site_is_and_readable_either_way(
    service: Service, visit: Visit, site: Path, model_server: FakeOpenAI
) -> None:
    async def findings() -> list[str]:
        return await accessibility_findings(page, within="book-chat") if (TOOLS / "axe-core").exists() else []

    model_server.enqueue(stream("It stays inside [1]. $x$"))
    page = await visit(service, files=site, color_scheme="light")
    await open_chat(page)
    assert await brightness(page) > 200
    assert await findings() == []
    await ask(page, "What keeps it up?")
    await expect(page.get_by_role("button", name="Good answer")).to_be_visible()
    assert await findings() == []

    await page.evaluate("document.documentElement.dataset.theme = 'dark'")
    await page.wait_for_function("getComputedStyle(document.documentElement).colorScheme === 'dark'")
    assert await brightness(page) < 60
    assert await findings() == []
    await page.get_by_role("button", name="New conversation").click()
    await expect(page.get_by_text("What would you like to know?")).to_be_visible()
    assert await findings() == []


async def brightness(page: Page) -> float:
    """How bright the chat's background is, of 255."""
    colour: str = await page.get_by_role("dialog").evaluate("dialog => getComputedStyle(dialog).backgroundColor")
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


async def test_an_urdu_site_has_an_urdu_chat(service: Service, visit: Visit, site: Path) -> None:
    page = await visit(service, files=site, path="/ur/", **PHONE)
    await page.get_by_role("button", name="کتاب سے پوچھیں").tap()
    dialog = page.get_by_role("dialog")
    assert await dialog.evaluate("dialog => getComputedStyle(dialog).direction") == "rtl"
    if (TOOLS / "axe-core").exists():
        assert await accessibility_findings(page, within="book-chat") == []
    await page.get_by_role("button", name="”حرکیات“ کا خلاصہ کریں").tap()
    await expect(questions(page)).to_have_text(["”حرکیات“ کا خلاصہ کریں"])
    await expect(answers(page)).to_have_text("Answer 1 to: ”حرکیات“ کا خلاصہ کریں")
