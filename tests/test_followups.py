"""The block of follow-up questions at an answer's end, however it is cut into pieces."""

import uuid
from typing import Any

import pytest

from app.followups import Splitter
from tests.conftest import Service
from tests.events import all_events
from tests.fake_openai import FakeOpenAI, completion, failure, stream
from tests.marks import on_one_database

ANSWER = "A robot walks.\n\n- On legs\n"
BLOCK = "\n\n<follow-ups>\n1. How many legs?\n- Why legs [1]?\n\n* How many legs?\nWhy?\nAnd wheels?\n</follow-ups>\n"
QUESTIONS = ["How many legs?", "Why legs?", "Why?"]


def split(*pieces: str) -> tuple[str, list[str]]:
    splitter = Splitter()
    shown = [splitter.feed(piece) for piece in pieces]
    return "".join([*shown, splitter.close()]), splitter.questions


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_block_is_held_back_in_pieces_of_any_size(size: int) -> None:
    text = ANSWER + BLOCK

    shown = split(*(text[start : start + size] for start in range(0, len(text), size)))

    assert shown == (ANSWER.rstrip(), QUESTIONS)


def test_the_block_is_held_back_wherever_it_is_cut_in_two() -> None:
    text = ANSWER + BLOCK

    assert {
        (split(text[:place], text[place:])[0], len(split(text[:place], text[place:])[1])) for place in range(len(text))
    } == {(ANSWER.rstrip(), 3)}


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        "a <follow",
        "<follow-up> and <follow-ups-> are tags",
        "1 < 2",
        "x\n\n<follow-ups",
        "<",
        "<<follow-up",
        "  \n",
    ],
)
def test_text_that_only_begins_like_the_block_is_shown(text: str) -> None:
    assert split(*text) == split(text) == (text, [])


@pytest.mark.parametrize("end", range(len("<follow-ups>"), len(BLOCK.strip())))
def test_an_unfinished_block_is_neither_shown_nor_read(end: int) -> None:
    assert split(*f"{ANSWER}\n{BLOCK.strip()[:end]}") == (ANSWER.rstrip(), [])


def test_what_comes_after_the_block_belongs_to_the_answer() -> None:
    assert split(*f"Before{BLOCK} \n after <b>.") == ("Before\n\nafter <b>.", QUESTIONS)


def test_of_many_questions_the_first_three_are_taken_each_once_and_without_its_marks() -> None:
    block = "1. Why?\n\nWhy? [1]\n* How [2] so?\n2) Who?\nWhen?"

    assert split(f"A<follow-ups>\n{block}\n</follow-ups>") == ("A", ["Why?", "How so?", "Who?"])


def test_long_lines_are_no_questions() -> None:
    assert split(f"A<follow-ups>\n{'why ' * 60}\nWhy?</follow-ups>") == ("A", ["Why?"])


@on_one_database
async def test_a_stream_ends_with_the_questions_that_it_asked_for(service: Service, model_server: FakeOpenAI) -> None:
    model_server.enqueue(stream(*(ANSWER + BLOCK)))

    events = await all_events(service, follow_ups=True)

    assert events[-2] == ("follow_ups", {"questions": QUESTIONS})
    assert events[-1][1]["response"] == ANSWER.rstrip()
    assert "".join(data["text"] for name, data in events if name == "delta") == ANSWER.rstrip()
    assert await service.tables.replies() == [ANSWER.rstrip()]
    assert "<follow-ups>" in model_server.prompt[0]["content"]


@on_one_database
async def test_who_repeats_a_running_request_gets_its_questions_too_and_who_repeats_it_later_does_not(
    service: Service, model_server: FakeOpenAI
) -> None:
    service.client.headers["Idempotency-Key"] = str(uuid.uuid4())
    model_server.enqueue(stream(ANSWER + BLOCK))
    first = await all_events(service, follow_ups=True)

    again = await all_events(service, follow_ups=True)

    assert [name for name, _ in first] == ["session", "delta", "follow_ups", "done"]
    assert [name for name, _ in again] == ["session", "delta", "done"]
    assert again[-1] == first[-1]


@on_one_database
@pytest.mark.parametrize("fields", [{}, {"follow_ups": False}])
async def test_nobody_is_asked_for_questions_that_nobody_wants(
    service: Service, model_server: FakeOpenAI, fields: dict[str, Any]
) -> None:
    events = await all_events(service, **fields)
    await service.chat(follow_ups=True)  # There is no event in which they could come.

    assert "follow_ups" not in {name for name, _ in events}
    assert all("<follow-ups>" not in request["messages"][0]["content"] for request in model_server.requests)


@on_one_database
async def test_an_answer_of_nothing_but_the_block_is_none(service: Service, model_server: FakeOpenAI) -> None:
    model_server.enqueue(stream(BLOCK))

    response = await service.client.post("/chat/stream", json={"message": "Why?", "follow_ups": True})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "openai_error"
    assert await service.tables.replies() == []


@on_one_database
async def test_a_block_that_the_model_gives_unasked_is_no_part_of_an_answer_that_is_not_streamed(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(failure(500), completion(ANSWER + BLOCK))
    await service.chat(follow_ups=True)

    response = await service.chat(follow_ups=True)

    assert response.json()["response"] == ANSWER.rstrip()


@pytest.mark.parametrize("end", ["<", "<follow", "\n\n<follow-up", "<follow-ups>\nWhy"])
async def test_a_stream_tells_the_whole_answer_though_it_ends_like_the_beginning_of_the_block(
    service: Service, model_server: FakeOpenAI, end: str
) -> None:
    model_server.enqueue(stream("3 is ", f"more than 2{end}"))

    events = await all_events(service, follow_ups=True)

    told = "".join(event["text"] for name, event in events if name == "delta")
    assert told.rstrip() == events[-1][1]["response"]
