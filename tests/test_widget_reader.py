"""What the widget offers a reader beyond one answer: earlier conversations, the page as a subject, and further questions."""

import json

from playwright.async_api import expect

from tests.browser import Visit, accessibility_findings, answers, ask, needs_chromium, open_chat, questions, requests_of
from tests.conftest import Service
from tests.fake_openai import FakeOpenAI, stream
from tests.marks import on_one_database
from tests.test_widget_interface import needs_axe

pytestmark = [needs_chromium, on_one_database]


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


async def test_a_list_that_cannot_be_loaded_says_so(service: Service, visit: Visit) -> None:
    page = await visit(service)
    await open_chat(page)
    await ask(page, "What is a joint?")
    await expect(answers(page)).to_be_visible()
    await page.route("**/chat?*", lambda route: route.abort(), times=1)
    await page.get_by_role("button", name="Conversations", exact=True).click()
    await expect(page.get_by_role("alert")).to_have_text("Your conversations could not be loaded.")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_role("list", name="Conversations").get_by_role("button")).to_have_count(1)


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
    await page.get_by_role("button", name="Simplify").click()
    await expect(answers(page).last).to_have_text("Fine.")
    bodies = [json.loads(request.post_data or "") for request in made]
    assert [body.get("scope") for body in bodies] == ["page", "page", None, None]
    assert {body["page_url"] for body in bodies} == {"http://localhost:3000/part/page"}
    assert bodies[3]["selected_text"] == "Atlas walks on two legs. It weighs 89 kg."
