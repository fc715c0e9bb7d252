"""The commands that show what the search finds, and measure how often that is right."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from app.book.answers import _checks
from app.book.evaluation import (
    AnswerQuestion,
    Outcome,
    PlaceOutcome,
    Question,
    QuestionsError,
    as_table,
    failures,
    figures,
    place_failures,
    place_figures,
    read_questions,
    unknown_pages,
)
from app.book.search import Hit
from app.retrieval import Passage, Query
from tests import commands
from tests.books import BOOK, LEGS, WHEELS, Section, opened, replace_book
from tests.conftest import API_KEY, ROOT, BookCommand
from tests.fake_openai import Exchange, FakeOpenAI, completion, embedding, failure, json_body

QUESTIONS = [
    {"question": "What has legs?", "pages": [f"{BOOK}legs/"], "section": f"{BOOK}legs#0"},
    {"question": "And wheels?", "pages": [f"{BOOK}legs", f"{BOOK}wheels"], "previous_question": "What walks?"},
    {"question": "Why frobnicate?", "pages": [f"{BOOK}legs"], "section": f"{BOOK}legs#0"},
]


def found(*names: str) -> list[Hit]:
    return [Hit(name, f"{BOOK}{name}#0", name, f"{BOOK}{name}", 0.1, 1, None) for name in names]


def outcome(right: str, *names: str, section: str | None = None) -> Outcome:
    return Outcome(Question(question="?", pages=[f"{BOOK}{right}"], section=section), found(*names))


def test_the_figures_count_the_place_of_the_first_right_chunk() -> None:
    outcomes = [
        outcome("a", "a", "b"),
        outcome("b", "a", "a", "a", "b", "b"),
        outcome("c", *"aaaaaac"),
        outcome("d", "a"),
    ]

    assert figures(outcomes) == {
        "recall@1": 0.25,
        "recall@5": 0.5,
        "recall@10": 0.75,
        "mrr": pytest.approx((1 + 1 / 4 + 1 / 7) / 4),
    }


def test_a_question_fails_whose_page_is_not_among_the_passages() -> None:
    outcomes = [outcome("b", *"aaaaab"), outcome("c", *"aaaaabc"), outcome("d", "a")]

    assert [(failure["rank"], failure["found"]) for failure in failures(outcomes)] == [
        (7, [f"{BOOK}a", f"{BOOK}b"]),
        (None, [f"{BOOK}a"]),
    ]


def test_a_section_is_right_if_it_is_one_of_the_passages() -> None:
    right = f"{BOOK}b#0"
    outcomes = [
        outcome("b", "a", "b", section=right),
        outcome("b", *"aaaaaab", section=right),
        outcome("b", "b"),
    ]

    assert figures(outcomes)["section"] == 0.5


@pytest.mark.parametrize("right", ["a", "a/", "a#b", "%61"])
def test_addresses_are_compared_as_addresses_of_pages(right: str) -> None:
    assert outcome(right, "a").rank == 1


def test_pages_that_the_book_does_not_have_are_named_once() -> None:
    questions = [Question(question="?", pages=[f"{BOOK}a/", f"{BOOK}b"]), Question(question="?", pages=[f"{BOOK}b"])]

    assert unknown_pages(questions, {f"{BOOK}a"}) == [f"{BOOK}b"]


def test_the_table_has_a_column_for_each_way_of_searching() -> None:
    table = as_table({"words": {"recall@1": 0.5, "mrr": 0.5}, "words and meaning": {"recall@1": 1.0, "mrr": 0.75}})

    assert [line.split() for line in table.splitlines()] == [
        ["words", "words", "and", "meaning"],
        ["recall@1", "50%", "100%"],
        ["MRR", "0.50", "0.75"],
    ]


@pytest.mark.parametrize(
    "write",
    [json.dumps, lambda questions: "\n".join(map(json.dumps, questions)), lambda q: "\ufeff" + json.dumps(q, indent=1)],
    ids=["list", "lines", "with a byte order mark"],
)
def test_questions_are_read_from_lines_or_from_a_list(tmp_path: Path, write: Callable[[Any], str]) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(write(QUESTIONS) + "\n\n", encoding="utf-8")

    for_search, for_model = read_questions(file)
    assert [question.model_dump(exclude_unset=True) for question in for_search] == QUESTIONS
    assert for_model == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no questions"),
        ("[]", "has no questions"),
        ('{"question": "?", "pages": ["a"]}\n\n{"question": "?"}', "line 3: needs pages, a page_url or contents"),
        ('{"question": "?", "pages": []}', "line 1: needs pages, a page_url or contents"),
        ('{"question": "", "pages": ["a"]}', "line 1: question String should have"),
        ("not json", "line 1: Invalid JSON"),
        ('[{"question": 1}]', "0.question Input should be a valid string"),
        ('{"question": "?", "says": [""]}', "line 1: says.0 String should have"),
        ('{"question": "?", "declines": true, "pages": ["a"]}', "line 1: declines, and has pages"),
    ],
)
def test_what_is_wrong_with_the_questions_is_said(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(content)

    with pytest.raises(QuestionsError, match="questions") as caught:
        read_questions(file)

    assert message in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "questions.jsonl"
    if content:
        file.write_bytes(content)

    with pytest.raises(QuestionsError, match="cannot be read"):
        read_questions(file)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A migrated database of each kind that holds no book."""
    address: str = request.getfixturevalue("migrated_sqlite_url" if request.param == "sqlite" else "migrated_url")
    return address


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return file


type Run = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def run(book_command: BookCommand) -> Run:
    """Run a command of the book's owner."""

    async def run(url: str, *arguments: str | Path, **environment: str) -> tuple[int, str]:
        return await asyncio.to_thread(book_command, *arguments, DATABASE_URL=url, **environment)

    return run


def key_for(model_server: FakeOpenAI) -> dict[str, str]:
    return {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model_server.url}


async def test_a_search_shows_what_is_found_and_why(url: str, run: Run, model_server: FakeOpenAI) -> None:
    async with opened(url) as database:
        await replace_book(database, LEGS, WHEELS)

        status, output = await run(url, "search", "Which robot has legs?", **key_for(model_server))

    assert status == 0, output
    assert output.splitlines()[:4] == [
        " 1. Legs",
        f"    {BOOK}legs#0",
        "    score 0.0328 (words 1, meaning 1)",
        "    A hexapod walks on six legs.",
    ]
    assert "2. Wheels" in output
    assert model_server.embedded == ["Which robot has legs?"]


@pytest.mark.slow
async def test_a_search_takes_the_readers_place_into_account(url: str, run: Run, model_server: FakeOpenAI) -> None:
    twin = Section("twin", LEGS.text, title=LEGS.title)
    async with opened(url) as database:
        await replace_book(database, LEGS, WHEELS, twin)
        options = ("--previous", "What walks on legs?", "--page", f"{BOOK}twin?a=1", "--limit", "1", "--words")

        status, output = await run(url, "search", "And why?", *options, **key_for(model_server))

    assert (status, output.splitlines()[1]) == (0, f"    {BOOK}twin#0")
    assert "2." not in output
    assert model_server.embedding_requests == []


@pytest.mark.slow
async def test_a_search_without_a_key_needs_no_settings_but_the_database(url: str, run: Run) -> None:
    async with opened(url) as database:
        await replace_book(database, LEGS, WHEELS)

        assert (await run(url, "search", "legs"))[1].startswith(" 1. Legs")
        assert await run(url, "search", "frobnicate") == (0, "Nothing was found.\n")


@pytest.mark.slow
async def test_a_search_whose_embedding_fails_says_so_and_shows_what_words_find(
    url: str, tmp_path: Path, model_server: FakeOpenAI
) -> None:
    model_server.enqueue_embeddings(failure(401, "bad key"))
    async with opened(url) as database:
        await replace_book(database, LEGS, WHEELS)

        arguments = ("-m", "app.book", "search", "legs")
        environment = {"DATABASE_URL": url, **key_for(model_server)}
        status, output = await asyncio.to_thread(commands.run, *arguments, folder=tmp_path, **environment)

    assert status == 0
    assert "embeddings.failed kind=401 reason=bad key" in output
    assert "(words 1)" in output


@pytest.mark.slow
async def test_an_evaluation_measures_both_ways_of_searching(
    url: str, run: Run, model_server: FakeOpenAI, questions: Path
) -> None:
    model_server.enqueue_embeddings(json_body({"data": [{"embedding": embedding(LEGS.text)}] * 4}))
    async with opened(url) as database:
        await replace_book(database, LEGS, WHEELS)

        status, output = await run(url, "evaluate", questions, "--json", **key_for(model_server))

    assert status == 0, output
    assert json.loads(output) == {
        "questions": 3,
        "words": {"recall@1": 0.6667, "recall@5": 0.6667, "recall@10": 0.6667, "mrr": 0.6667, "section": 0.5},
        "words and meaning": {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0, "mrr": 1.0, "section": 1.0},
        "failed": [],
    }
    assert len(model_server.embedding_requests) == 1


async def test_an_evaluation_by_words_alone_names_what_failed(url: str, run: Run, questions: Path) -> None:
    async with opened(url) as database:
        await replace_book(database, LEGS)

        status, output = await run(url, "evaluate", questions, "-v")

    assert status == 0
    missing, count, table, *rest = output.splitlines()
    assert missing == f"The book does not have these pages: {BOOK}wheels"
    assert (count, table.split()) == ("3 questions", ["words"])
    assert rest[-3:] == ["Why frobnicate?", f"  right: {BOOK}legs", "  found: nothing"]


async def test_without_a_book_a_command_says_how_to_read_one_in(url: str, run: Run, questions: Path) -> None:
    for arguments in (("search", "legs"), ("evaluate", questions)):
        assert await run(url, *arguments) == (
            1,
            "There is no book in the database. Please run: uv run python -m app.book ingest --help\n",
        )


async def test_a_database_that_is_not_migrated_or_not_there_is_an_error(run: Run, empty_url: str) -> None:
    status, output = await run(empty_url, "search", "legs")
    assert (status, output) == (1, "The database is not migrated. Please run: uv run alembic upgrade head\n")

    status, output = await run(f"{empty_url}_gone", "search", "legs")
    assert (status, len(output.splitlines())) == (1, 1)
    assert output.startswith("The database failed: ")


@pytest.mark.slow
async def test_embeddings_that_fail_end_an_evaluation(
    url: str, run: Run, model_server: FakeOpenAI, questions: Path
) -> None:
    model_server.enqueue_embeddings(failure(401, "bad key"))
    async with opened(url) as database:
        await replace_book(database, LEGS, WHEELS)

        status, output = await run(url, "evaluate", questions, **key_for(model_server))

    assert (status, output) == (1, "The questions cannot be embedded: bad key\n")


@pytest.mark.parametrize("arguments", [(), ("search",), ("evaluate",), ("burn",), ("search", "legs", "--limit", "0")])
async def test_a_wrong_command_line_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    status, output = await run("sqlite:///book.db", *arguments)

    assert status == 2
    assert "usage:" in output
    assert "_positive" not in output


ANSWERS: list[dict[str, Any]] = [
    {"question": "What has legs?", "pages": [f"{BOOK}legs"], "says": ["six|6", "a hexapod"]},
    {"question": "And wheels?", "previous_question": "What has legs?", "pages": [f"{BOOK}wheels"], "says": ["four"]},
    {"question": "Who won on wheels?", "declines": True, "does_not_say": ["Germany"]},
    {"question": "What walks?", "selected_text": "A biped walks.", "says": ["biped"], "does_not_say": ["hexapod"]},
]


type CheckAnswers = Callable[[list[str]], Awaitable[dict[str, Any]]]


@pytest.fixture
def check_answers(url: str, model_server: FakeOpenAI, run: Run, tmp_path: Path) -> CheckAnswers:
    """Evaluate these answers of the model to the questions above; gives what the command says of them."""

    async def check(answers: list[str]) -> dict[str, Any]:
        answer_to = {str(question["question"]): text for question, text in zip(ANSWERS, answers, strict=True)}

        async def answer(exchange: Exchange) -> None:
            question = str(exchange.body["messages"][-1]["content"]).rpartition("\n\n")[2]
            await completion(answer_to[question])(exchange)

        # The question before another is asked first.
        model_server.enqueue(*[answer] * (len(answers) + 1))
        file = tmp_path / "answers.jsonl"
        file.write_text("\n".join(map(json.dumps, ANSWERS)))
        async with opened(url) as database:
            await replace_book(database, LEGS, WHEELS, model=None)
            status, output = await run(url, "evaluate", file, "--json", **key_for(model_server))
        assert status == 0, output
        found: dict[str, Any] = json.loads(output)["answers"]
        return found

    return check


async def test_answers_that_cite_and_say_what_they_must_hold(check_answers: CheckAnswers) -> None:
    assert await check_answers(["A  Hexapod, on 6 legs. [1]", "It has four [1].", "I do not know.", "A biped."]) == {
        "cites": {"held": 2, "asked": 2},
        "declines": {"held": 1, "asked": 1},
        "says": {"held": 3, "asked": 3},
        "does_not_say": {"held": 1, "asked": 1},
        "keeps_to_excerpt": {"held": 1, "asked": 1},
        "failed": [],
    }


@pytest.mark.slow
async def test_answers_that_do_not_are_named_with_what_is_wrong(check_answers: CheckAnswers) -> None:
    answers = ["A hexapod has sixty. [1]", "It has four.", "Germany [1].", "Not a hexapod: a biped."]

    found = await check_answers(answers)

    assert {name: counts["held"] for name, counts in found.items() if name != "failed"} == {
        "cites": 1,
        "declines": 0,
        "says": 2,
        "does_not_say": 0,
        "keeps_to_excerpt": 0,
    }
    assert [(failure["question"], failure["failed"]) for failure in found["failed"]] == [
        ("What has legs?", ["says"]),
        ("And wheels?", ["cites"]),
        ("Who won on wheels?", ["declines", "does_not_say"]),
        ("What walks?", ["keeps_to_excerpt"]),
    ]
    assert [failure["answer"] for failure in found["failed"]] == answers


@pytest.mark.parametrize(
    ("expected", "answer", "held"),
    [
        ({"says": ["six legs", "hexapod|insect"]}, "An INSECT has six\nlegs.", {"says": True}),
        ({"says": ["six legs", "hexapod|insect"]}, "It has six legs.", {"says": False}),
        ({"says": ["six"]}, "It has sixty.", {"says": False}),
        ({"does_not_say": ["four", "two"]}, "It has two.", {"does_not_say": False}),
        ({"does_not_say": ["four"], "selected_text": "Six."}, "It has six.", {"keeps_to_excerpt": True}),
        ({"pages": ["https://a/b/", "https://a/c"]}, "It walks.", {"cites": True}),
        ({"pages": ["https://a/c"]}, "It walks.", {"cites": False}),
        ({"declines": True}, "It walks.", {"declines": False}),
    ],
)
def test_an_answer_holds_if_it_says_and_cites_what_it_must(
    expected: dict[str, Any], answer: str, held: dict[str, bool]
) -> None:
    question = AnswerQuestion(question="How many legs?", **expected)

    assert dict(_checks(question, answer, {"a/b"})) == held


def test_the_figures_of_pages_and_of_the_contents_are_of_the_questions_about_them() -> None:
    here, there = (Passage("It has 3 parts.", f"{BOOK}{page}#a", "Contents") for page in ("here", "there"))
    about_page = Question(question="Why?", page_url=f"{BOOK}here", scope="page")
    about_contents = Question(question="How many?", contents=["3 parts"])
    outcomes = [
        PlaceOutcome(about_page, [here, there]),
        PlaceOutcome(about_page, [here]),
        PlaceOutcome(about_contents, [there]),
        PlaceOutcome(about_contents, []),
    ]

    assert place_figures(outcomes) == {"page": 0.75, "contents": 0.5}
    assert place_figures(outcomes[:2]) == {"page": 0.75}
    assert [(failure["pages"], failure["found"]) for failure in place_failures(outcomes)] == [
        ([f"{BOOK}here"], [f"{BOOK}here#a", f"{BOOK}there#a"]),
        (["3 parts"], []),
    ]


@pytest.mark.slow
async def test_answers_are_those_of_the_retriever_that_is_plugged_in(
    check_answers: CheckAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def shelf(_query: Query) -> list[Passage]:
        return [Passage("Six legs, four wheels.", f"{BOOK}wheels#number", "Wheels")]

    monkeypatch.setattr("app.main.open_retriever", lambda *_: nullcontext(shelf))

    found = await check_answers(["Six [1].", "Four [1].", "Four [1].", "A biped."])

    assert (found["cites"]["held"], found["declines"]["held"]) == (1, 0)


@pytest.mark.slow
def test_the_stand_in_answers_the_example_questions_from_the_sample_book(book_command: BookCommand) -> None:
    book_command("ingest", ROOT / "sample-book/docs", "--url", "https://book.example.org/docs/")

    status, output = book_command("evaluate", ROOT / "sample-book/answers.jsonl", "--verbose")

    lines = dict(re.findall(r"^(.+?) +(\d+/\d+)$", output, re.MULTILINE))
    assert status == 0
    assert output.startswith("20 answers of the offline stand-in\n")
    # It quotes and cannot decline, but it cites and keeps to its text.
    assert lines["cites a right page"] == "14/14"
    assert lines["keeps to the excerpt"] == "3/3"
    assert "Which fertilizer do tomatoes need?\n  not: cites nothing where the book does not say\n  answer: [" in output
