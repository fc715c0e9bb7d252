"""The search of the book: what is found, in which order, and what happens when a part of it fails."""

import asyncio
import itertools
import logging
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from app import dsn
from app.book.evaluation import known
from app.book.lengths import shortened
from app.book.search import PASSAGES, BookSearch, Hit, as_passages
from app.book.shelf import comparable
from app.config import Settings
from app.database import Database
from app.logs import RequestContext, _current, current_request
from app.models import MessageRole
from app.retrieval import Query, retrieve_nothing
from tests.books import BOOK, LEGS, WHEELS, Section, opened, replace_book
from tests.conftest import API_KEY, PlugIn, Service
from tests.fake_openai import (
    FakeOpenAI,
    Reply,
    embedding,
    embeddings,
    failure,
    held,
    html_page,
    json_body,
    question_in,
    stall,
)
from tests.patience import PATIENCE_SECONDS
from tests.pooler import TlsPooler
from tests.postgres import PostgresServer

ARMS = Section("arms", "A gripper holds a cup. Its price is high.", title="Arms")
CAMERAS = Section("cameras", "Lenses bend light onto a sensor.", title="Cameras")
ROBOTS = (LEGS, WHEELS, ARMS, CAMERAS)

SLOW = 30.0
"""Seconds for an embedding, in tests in which it is not to be late."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


def searching(
    database: Database, model_server: FakeOpenAI, *, seconds: float = SLOW, **settings: Any
) -> AbstractAsyncContextManager[BookSearch]:
    values = {
        "fastapi_env": "development",
        "openai_api_key": API_KEY,
        "openai_base_url": model_server.url,
        "openai_max_retries": 0,
        **settings,
    }
    return BookSearch(Settings.model_validate(values), database, embedding_seconds=seconds)


@pytest.fixture
async def search(database: Database, model_server: FakeOpenAI) -> AsyncIterator[BookSearch]:
    """The search, which reads what is known of the book again with every question."""
    async with searching(database, model_server) as search:
        await search.has_meaning()  # What it reads at its beginning is not what the test is going to write.
        yield search


@pytest.fixture(autouse=True)
def _always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.book.search._READING_SECONDS", 0)


@pytest.fixture(autouse=True)
def _log_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """Undo the level of a service that another test has run."""
    caplog.set_level(logging.WARNING, logger="app")


async def find(
    search: BookSearch, question: str, previous: str | None = None, *, page: str | None = None, **options: Any
) -> list[Hit]:
    return await search.search(Query(question, known(previous), page), **{"limit": 10, **options})


def pages(hits: Sequence[Hit]) -> list[str]:
    return [hit.page.removeprefix(BOOK) for hit in hits]


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [getattr(record, "fields", {}) for record in caplog.records if record.getMessage() == event]


# By words


async def test_a_chunk_with_the_words_of_the_question_is_found(database: Database, search: BookSearch) -> None:
    await replace_book(database, *ROBOTS, model=None)

    assert await find(search, "Which robots have wheels?") == [
        Hit(
            text=WHEELS.text,
            source=f"{BOOK}wheels#0",
            title="Wheels",
            page=f"{BOOK}wheels",
            score=1 / 61,
            words_rank=1,
            meaning_rank=None,
        )
    ]


@pytest.mark.parametrize("question", ["walking", "How does it WALK?", "legged", "LEG", "hexapods"])
async def test_other_forms_of_a_word_are_found(database: Database, search: BookSearch, question: str) -> None:
    await replace_book(database, *ROBOTS, model=None)

    assert pages(await find(search, question)) == ["legs"]


async def test_a_chunk_that_was_deleted_by_hand_takes_nobodys_place(database: Database, search: BookSearch) -> None:
    await replace_book(database, LEGS, Section("more-legs", f"{LEGS.text} A spider walks on eight.", title="Spiders"))
    await database.execute((text("DELETE FROM documents WHERE title = 'Legs'"), {}))

    [hit] = await find(search, "Which hexapod has legs?", by_meaning=False)

    assert (hit.title, hit.words_rank) == ("Spiders", 1)


async def test_the_title_counts_more_than_the_text(database: Database, search: BookSearch) -> None:
    filler = " ".join(f"filler{number}" for number in range(20))
    by_text = Section("text", f"Actuators move. {filler}", title="Chapter one about something")
    by_title = Section("title", f"They move. {filler}", title="Actuators in chapter two about something")
    await replace_book(database, by_text, by_title, *ROBOTS, model=None)

    assert pages(await find(search, "actuators")) == ["title", "text"]


async def test_a_rare_word_counts_more_than_a_frequent_one(database: Database, search: BookSearch) -> None:
    frequent = [Section(f"frequent-{number}", f"A robot is number {number}.") for number in range(9)]
    await replace_book(database, *frequent, Section("rare", "The gyroscope measures a rotation."), model=None)

    assert pages(await find(search, "robot gyroscope"))[0] == "rare"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("seed", range(3))
async def test_postgresqls_order_is_that_of_bm25(
    database_url: str, database: Database, search: BookSearch, seed: int
) -> None:
    numbers = random.Random(seed)
    vocabulary = [f"term{number}" for number in range(12)]
    # Urdu has no stemmer, so words are as they are.
    texts = [numbers.choices(vocabulary, weights=range(1, 13), k=numbers.randint(5, 60)) for _ in range(40)]
    sections = [
        Section(f"page-{number}", " ".join(words), title=words[0], locale="ur") for number, words in enumerate(texts)
    ]
    await replace_book(database, *sections, model=None)

    bags = [Counter([words[0], words[0], *words]) for words in texts]
    asked = ["term0", "term3", "term7"]
    average = sum(bag.total() for bag in bags) / len(bags)

    def bm25(bag: Counter[str]) -> float:
        score = 0.0
        for word in asked:
            having = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            score += idf * bag[word] * 2.2 / (bag[word] + 1.2 * (0.25 + 0.75 * bag.total() / average))
        return score

    expected = {f"page-{number}": bm25(bag) for number, bag in enumerate(bags)}
    hits = await find(search, " ".join(asked), limit=20)
    scores = [expected[page] for page in pages(hits)]
    assert scores == pytest.approx(sorted(expected.values(), reverse=True)[:20], rel=0.02)
    ranks = [hit.words_rank or 0 for hit in hits]
    assert (ranks[0], ranks) == (1, sorted(ranks))


async def test_identifiers_are_found_by_their_parts_and_whole(database: Database, search: BookSearch) -> None:
    await replace_book(database, *ROBOTS, Section("ros", "Call `rclpy.spin_once(robotNode)` first."), model=None)

    for question in ("spin_once", "spin once", "rclpy", "robotNode", "robot node", "What does rclpy.spin_once() do?"):
        assert pages(await find(search, question))[:1] == ["ros"], question


async def test_a_book_in_urdu_is_found_in_urdu(database: Database, search: BookSearch) -> None:
    urdu: dict[str, Any] = {"locale": "ur", "book": f"{BOOK}urdu/"}
    walking = Section("walk", "روبوٹ دو ٹانگوں پر چلتا ہے", title="چلنا", **urdu)
    seeing = Section("see", "کیمرہ روشنی کو دیکھتا ہے", title="دیکھنا", **urdu)
    await replace_book(database, *ROBOTS, walking, seeing, model=None)

    assert pages(await find(search, "کیا روبوٹ ٹانگوں پر چلتا ہے؟"))[0] == "urdu/walk"
    assert pages(await find(search, "Does it walk?")) == ["legs"]


async def test_scripts_without_blanks_are_found_by_parts_of_their_text(database: Database, search: BookSearch) -> None:
    chinese: dict[str, Any] = {"locale": "zh-Hans", "book": f"{BOOK}zh/"}
    walking = Section("walk", "机器人用六条腿走路。", title="腿", **chinese)
    await replace_book(database, *ROBOTS, walking, Section("see", "相机", title="光", **chinese), model=None)

    assert pages(await find(search, "机器人怎么走路")) == ["zh/walk"]


HOSTILE = {
    "tsquery syntax": "legs & ! | <-> :* ( 'a' \\",
    "FTS5 syntax": 'legs AND NOT NEAR("a" "b", 2) title: ^ * + - {a b}: "',
    "quotes": "'\"''\"\"; DROP TABLE documents; -- legs",
    "placeholders": ":question $1 %s %(legs)s {legs} ?",
    "emoji and controls": "legs \U0001f916 \x01\x1f\x7f\u200b\ufeff\u202e",
    "surrogates joined": "legs \U0010ffff",
    "a very long word": "x" * 4_000,
    "many words": " ".join(f"{number}" for number in range(600)) + " legs",
    "one word often": "legs " * 800,
    "one character": "x",
}
NOTHING = {
    "stop words": "What is it, and how do you do that?",
    "punctuation": "?!… — 。",
    "emoji": "\U0001f916\U0001f916",
    "unknown words": "quux frobnicate",
}


async def test_a_hostile_question_is_taken_by_its_words(
    database: Database, search: BookSearch, subtests: pytest.Subtests
) -> None:
    await replace_book(database, *ROBOTS)

    for (hostile, question), by_meaning in itertools.product(HOSTILE.items(), (False, True)):
        with subtests.test(hostile, by_meaning=by_meaning):
            hits = await find(search, question, question, by_meaning=by_meaning)
            assert ("legs" in pages(hits)) or "legs" not in question.split()


async def test_a_question_without_words_of_the_book_finds_nothing(
    database: Database, search: BookSearch, subtests: pytest.Subtests
) -> None:
    await replace_book(database, *ROBOTS, model=None)

    for nothing, question in NOTHING.items():
        with subtests.test(nothing):
            assert await find(search, question) == []


# By meaning


async def test_a_chunk_of_the_same_meaning_is_found_without_common_words(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *ROBOTS)
    model_server.enqueue_embeddings(meaning(CAMERAS))

    hits = await find(search, "optics")

    assert (pages(hits)[0], hits[0].meaning_rank, hits[0].words_rank) == ("cameras", 1, None)
    assert model_server.embedded == ["optics"]
    assert len(hits) == 4, "meaning ranks every chunk"


async def test_what_both_find_comes_before_what_one_finds(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *ROBOTS)
    model_server.enqueue_embeddings(meaning(WHEELS, LEGS))

    hits = await find(search, "legs")

    assert pages(hits)[:2] == ["legs", "wheels"]
    assert hits[0].score == pytest.approx(1 / 61 + 1 / (60 + (hits[0].meaning_rank or 0)))


@pytest.mark.slow
async def test_the_nearest_of_many_are_found(database: Database, search: BookSearch, model_server: FakeOpenAI) -> None:
    numbers = random.Random(1)
    vectors = [[numbers.gauss() for _ in range(384)] for _ in range(700)]
    await replace_book(database, *(Section(f"p{n}", f"Text {n}", vector=vector) for n, vector in enumerate(vectors)))
    wanted = [a + 2 * b for a, b in zip(vectors[5], vectors[6], strict=True)]
    model_server.enqueue_embeddings(json_body({"data": [{"index": 0, "embedding": wanted}]}))

    hits = await find(search, "optics")

    def cosine(vector: list[float]) -> float:
        return math.sumprod(vector, wanted) / math.hypot(*vector)

    nearest = sorted(range(700), key=lambda n: cosine(vectors[n]), reverse=True)
    assert pages(hits)[:2] == ["p6", "p5"]
    assert len(set(pages(hits)) & {f"p{n}" for n in nearest[:20]}) >= 9


@pytest.mark.parametrize("model", [None, "another-model"])
async def test_without_embeddings_of_our_model_nothing_is_embedded(
    database: Database,
    search: BookSearch,
    model_server: FakeOpenAI,
    caplog: pytest.LogCaptureFixture,
    model: str | None,
) -> None:
    await replace_book(database, *ROBOTS, model=model)

    assert [pages(await find(search, "legs")) for _ in range(2)] == [["legs"]] * 2

    assert model_server.embedding_requests == []
    said = events(caplog, "book.not_comparable")
    assert [fields["models"] for fields in said] == ([[model]] if model else []), "once"


async def test_without_a_key_nothing_is_embedded(database: Database, model_server: FakeOpenAI) -> None:
    await replace_book(database, *ROBOTS)

    async with searching(database, model_server, openai_api_key=None) as search:
        assert pages(await find(search, "legs")) == ["legs"]

    assert model_server.embedding_requests == []


async def test_of_several_books_those_of_our_model_are_compared(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, LEGS, WHEELS)
    await replace_book(database, ARMS, model="another-model", keep=True)
    await replace_book(database, CAMERAS, model=None, keep=True)
    await replace_book(database, Section("short", "Short", vector=[1.0] * 7), keep=True)
    model_server.enqueue_embeddings(meaning(ARMS))

    assert set(pages(await find(search, "optics"))) == {"legs", "wheels"}


async def test_a_vector_of_other_dimensions_than_the_books_is_not_compared_and_the_log_says_so_once(
    database: Database, search: BookSearch, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    await replace_book(database, *ROBOTS)
    model_server.enqueue_embeddings(*[embeddings(dimensions=384)] * 2)

    for question in ("legs", "wheels"):
        assert [hit.meaning_rank for hit in await find(search, question)] == [None]

    said = [(fields["dimensions"], fields["dimensions_of_book"]) for fields in events(caplog, "book.not_comparable")]
    assert said == [(384, 1536)]


def meaning(*sections: Section) -> Reply:
    """Answer with a vector that is close to those of the sections, the first one most."""
    vectors = [embedding(section.text) for section in sections]
    vector = [sum(number / place for place, number in enumerate(row, 1)) for row in zip(*vectors, strict=True)]
    return json_body({"data": [{"index": 0, "embedding": vector}]})


# Follow-ups, the page, and how many


async def test_a_follow_up_is_found_through_the_question_before(database: Database, search: BookSearch) -> None:
    await replace_book(database, *ROBOTS, model=None)

    assert pages(await find(search, "And why does it?", "What walks on legs?")) == ["legs"]


async def test_a_new_subject_outweighs_the_question_before(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *ROBOTS)
    for by_meaning in (False, True):
        model_server.enqueue_embeddings(meaning(WHEELS), meaning(LEGS))

        hits = await find(search, "And what about wheels?", "What walks on legs?", by_meaning=by_meaning)

        assert pages(hits)[:2] == ["wheels", "legs"]


async def test_the_question_before_is_embedded_only_if_it_was_not_before(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *ROBOTS)

    await find(search, "legs?")
    await find(search, "wheels?", "legs?")
    assert model_server.embedded == ["legs?", "wheels?"]

    await find(search, "arms?", "cameras?")
    assert sorted(model_server.embedded[2:]) == ["arms?", "cameras?"]


async def test_the_question_is_embedded_while_the_one_before_is_not_known_yet(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *ROBOTS)
    await find(search, "optics")
    previous: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    finding = asyncio.create_task(search(Query("legs?", previous, None)))

    await model_server.wait_for_embedding_requests(2)
    previous.set_result(None)

    assert (await finding).passages[0].text == LEGS.text


async def test_the_question_is_embedded_while_the_book_is_looked_at(
    database: Database, search: BookSearch, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replace_book(database, *ROBOTS)
    await find(search, "wheels")
    gate = asyncio.Event()
    monkeypatch.setattr(search, "_read", gate.wait)

    finding = asyncio.create_task(find(search, "legs"))
    await model_server.wait_for_embedding_requests(2)
    gate.set()

    assert pages(await finding)[0] == "legs"


async def test_the_latest_questions_are_remembered(
    database: Database, search: BookSearch, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.book.questions._REMEMBERED", 2)
    await replace_book(database, *ROBOTS)

    for question in ("legs", "wheels", "legs", "arms", "legs", "wheels"):
        await find(search, question)

    assert model_server.embedded == ["legs", "wheels", "arms", "wheels"]


async def test_at_most_three_chunks_of_a_page_are_found(database: Database, search: BookSearch) -> None:
    same = [Section("legs", f"Legs, legs, legs and {word}", position=n) for n, word in enumerate("abcde")]
    await replace_book(database, *same, Section("other", "Of legs, among very many other things to say"), model=None)

    hits = await find(search, "legs")

    assert Counter(pages(hits)) == {"legs": 3, "other": 1}


@pytest.mark.parametrize(
    "page",
    ["here", "here/", "here#top", "here?lang=en", "here/?a=1#b"],
)
async def test_among_equals_the_page_that_the_reader_is_on_comes_first(
    database: Database, search: BookSearch, page: str
) -> None:
    equals = [Section(name, "Legs.") for name in ("before", "here", "there")]
    await replace_book(database, *equals, Section("better", "Legs.", title="Legs"), model=None)

    assert pages(await find(search, "legs", page=f"{BOOK}{page}"))[:2] == ["better", "here"]


async def test_a_page_is_recognised_however_its_address_is_encoded(database: Database, search: BookSearch) -> None:
    equals = [Section(name, "Legs.") for name in ("a", "urdu/\u0686\u0644\u0646\u0627", "z")]
    await replace_book(database, *equals, model=None)

    encoded = f"{BOOK}urdu/%DA%86%D9%84%D9%86%D8%A7"
    assert pages(await find(search, "legs", page=encoded))[0] == equals[1].page


async def test_passages_come_whole_if_there_is_room() -> None:
    hits = [hit("x " * 500)] * PASSAGES

    assert [passage.text for passage in as_passages(hits)] == [hits[0].text] * 6


@pytest.mark.parametrize("character", ["a", "\N{ARABIC LETTER BEH}", "\N{GRINNING FACE}"])
async def test_of_long_passages_the_first_are_whole_and_each_has_its_beginning(character: str) -> None:
    texts = [f"{number} " + (character * 9 + " ") * 200 for number in range(PASSAGES)]

    passages = [passage.text for passage in as_passages([hit(text) for text in texts])]

    assert sum(len(passage.encode()) for passage in passages) <= 8_000
    assert [passage[0] for passage in passages] == list("012345")
    assert all(len(passage.encode()) > 500 for passage in passages)
    assert passages[-1].endswith(" …")
    assert character != "a" or passages[:2] == texts[:2]


@pytest.mark.parametrize(
    ("text", "size", "cut"),
    [
        ("One.\n\nTwo.", 11, "One.\n\nTwo."),
        ("One two three.\n\nFour five six", 26, "One two three. …"),
        ("One two three\nfour five six", 24, "One two three …"),
        ("One two three four", 14, "One two …"),
        ("x" * 30, 14, "x" * 10 + " …"),
    ],
)
def test_a_text_is_cut_where_something_ends(text: str, size: int, cut: str) -> None:
    assert shortened(text, size) == cut
    assert len(cut.encode()) <= size


def hit(text: str) -> Hit:
    return Hit(text, f"{BOOK}legs", "Legs", f"{BOOK}legs", 0.1, 1, 1)


def test_addresses_are_compared_without_what_does_not_name_the_page() -> None:
    urls = (
        *("https://a/b", "https://a/b/", "https://a/b?c#d", "https://a/b/#d", "http://A/b", "https://a:443/b"),
        *("https://a./b", "https://a/b/index.html", "https://a/%62", "https://u@a/b"),
    )

    assert {comparable(url) for url in urls} == {"a/b"}
    assert comparable("https://a:8000/B/caf%C3%A9") == comparable("http://a:8000/B/cafe\u0301/") == "a:8000/B/caf\u00e9"
    assert comparable("https://[a/b") == "https://[a/b"


# Failing embeddings


async def test_a_late_embedding_leaves_the_words_to_decide(
    database: Database, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    await replace_book(database, *ROBOTS)
    model_server.enqueue_embeddings(stall)
    async with searching(database, model_server, seconds=0.2) as search:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert pages(await find(search, "legs")) == ["legs"]
        assert [fields["kind"] for fields in events(caplog, "embeddings.failed")] == ["timeout"]


FAILURES = {
    "401": failure(401, "bad key"),
    "500": failure(500),
    "429": failure(429),
    "400": failure(400, "no such model"),
    "malformed": html_page(),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_failing_embeddings_leave_the_words_to_decide_and_are_left_alone_for_a_while(
    database: Database, search: BookSearch, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    await replace_book(database, *ROBOTS)
    model_server.enqueue_embeddings(*[FAILURES[kind]] * 9)

    for question in ("legs", "wheels"):
        assert pages(await find(search, question)) == [question]

    assert set(model_server.embedded) == {"legs"}
    assert [fields["kind"] for fields in events(caplog, "embeddings.failed")] == [kind]


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.book.questions._FIRST_PAUSE_SECONDS", 0)


@pytest.mark.usefixtures("_no_pause")
async def test_embeddings_that_fail_again_and_again_are_logged_once_until_they_succeed(
    database: Database, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    await replace_book(database, *ROBOTS)

    async def ask(search: BookSearch, question: str, *replies: Reply) -> int | None:
        model_server.enqueue_embeddings(*replies)
        return (await find(search, question))[0].meaning_rank

    async with searching(database, model_server) as search:
        assert await ask(search, "legs 1", failure(500)) is None
        assert await ask(search, "legs 2", failure(500)) is None
        assert await ask(search, "legs 3", failure(401)) is None
        assert await ask(search, "legs 4") == 1
        assert await ask(search, "legs 5", failure(500)) is None

    assert [fields["kind"] for fields in events(caplog, "embeddings.failed")] == ["500", "401", "500"]


async def test_a_server_that_keeps_failing_is_left_alone_for_ever_longer_up_to_a_minute(
    database: Database, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(0, 3600)
    monkeypatch.setattr("app.book.questions.time", SimpleNamespace(monotonic=lambda: next(hours)))
    statuses = [401, 403, 404, 409, 429, 500]
    model_server.enqueue_embeddings(*map(failure, statuses))

    async with searching(database, model_server) as search:
        for status in statuses:
            await search.questions.embed(f"Why {status}?", deadline=1e9)

    pauses = [fields["retry_after_seconds"] for fields in events(caplog, "embeddings.failed")]
    assert pauses == [5, 10, 20, 40, 60, 60]


async def test_a_failure_says_what_the_server_said_unless_it_quotes_the_reader(
    service: Service, model_server: FakeOpenAI, database_url: str
) -> None:
    async with opened(database_url) as database:
        await replace_book(database, *ROBOTS)
        model_server.enqueue_embeddings(failure(500, "cannot embed: What walks on legs at night?"))

        await service.chat("What walks on legs at night?")

    [record] = service.log("embeddings.failed")
    assert record["reason"] == "(withheld: the message quotes the reader)"
    assert record["kind"] == "500"
    assert "at night" not in service.output


async def test_a_failure_does_not_quote_the_question_before(
    database: Database, search: BookSearch, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    await replace_book(database, *ROBOTS)
    token = _current.set(RequestContext("1"))

    await find(search, "wheels", "What walks on legs at night?")

    assert current_request().confidential == ["What walks on legs at night?"]
    _current.reset(token)


async def test_the_embedding_of_the_question_before_may_be_late(
    database: Database, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    await replace_book(database, *ROBOTS)

    async def only_the_new_one(exchange: Any) -> None:
        await (stall if exchange.body["input"] == ["legs"] else embeddings())(exchange)

    model_server.enqueue_embeddings(only_the_new_one, only_the_new_one)
    async with searching(database, model_server, seconds=1.0) as search:
        hits = await find(search, "wheels", "legs")

    assert (pages(hits)[0], hits[0].meaning_rank) == ("wheels", 1)
    assert events(caplog, "embeddings.failed") == []


async def test_a_search_that_is_cancelled_is_no_failure_of_the_embeddings(
    database: Database, search: BookSearch, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    await replace_book(database, *ROBOTS)
    model_server.enqueue_embeddings(stall)
    finding = asyncio.create_task(find(search, "legs"))
    await model_server.wait_for_embedding_requests(1)

    finding.cancel()
    await asyncio.gather(finding, return_exceptions=True)

    assert (await find(search, "legs"))[0].meaning_rank == 1
    assert caplog.records == [] or events(caplog, "embeddings.failed") == []


async def test_of_a_very_long_question_the_beginning_and_the_end_are_embedded(
    database: Database, search: BookSearch, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *ROBOTS)

    await find(search, "legs " + "x" * 10_000 + " wheels")

    [embedded] = model_server.embedded
    assert len(embedded) < 2_100
    assert embedded.startswith("legs xxx")
    assert embedded.endswith("xxx wheels")


# A book that comes, changes and goes


async def test_a_book_that_is_read_in_while_the_service_runs_is_found(database: Database, search: BookSearch) -> None:
    assert await find(search, "legs") == []

    await replace_book(database, *ROBOTS)
    assert pages(await find(search, "legs"))[0] == "legs"

    await replace_book(database, Section("new", "New legs", vector=embedding("x y z")), WHEELS)
    hits = await find(search, "legs")
    assert (pages(hits)[0], {hit.meaning_rank for hit in hits}) == ("new", {1, 2})

    await replace_book(database)
    assert await find(search, "legs") == []


async def test_what_is_known_of_the_book_is_used_for_a_while(
    database: Database, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.book.search._READING_SECONDS", 1000)
    async with searching(database, model_server) as search:
        assert await find(search, "legs") == []
        await replace_book(database, *ROBOTS)
        request = RequestContext("1")
        token = _current.set(request)

        assert await find(search, "legs") == []
        assert request.database_statements == 0, "a service without a book pays nothing"

        monkeypatch.setattr("app.book.search._READING_SECONDS", 0)
        assert pages(await find(search, "legs"))[0] == "legs"
        _current.reset(token)


async def test_questions_at_the_same_time_read_about_the_book_once(database: Database, search: BookSearch) -> None:
    await find(search, "legs")
    request = RequestContext("1")
    token = _current.set(request)

    await asyncio.gather(*(find(search, "legs") for _ in range(10)))

    assert request.database_statements == 1
    _current.reset(token)


async def test_a_search_that_is_cancelled_while_the_book_is_looked_at_stops_no_other(
    database: Database, search: BookSearch
) -> None:
    await replace_book(database, *ROBOTS)
    cancelled, other = (asyncio.create_task(find(search, "legs")) for _ in range(2))
    await asyncio.sleep(0)  # Both begin.
    cancelled.cancel()

    assert pages(await other)[0] == "legs"
    assert cancelled.cancelled()


@pytest.mark.parametrize("replacement", [(), (Section("new", "New legs."),), (LEGS, WHEELS)], ids=len)
async def test_a_book_that_is_replaced_while_its_search_runs_is_no_failure(
    database: Database,
    model_server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    replacement: tuple[Section, ...],
) -> None:
    await replace_book(database, *ROBOTS)
    async with searching(database, model_server) as search:
        await find(search, "legs")
        monkeypatch.setattr("app.book.search._READING_SECONDS", 1000)
        gate = asyncio.Event()
        model_server.enqueue_embeddings(held(gate, embeddings()))
        finding = asyncio.create_task(find(search, "legs again"))
        await model_server.wait_for_embedding_requests(2)
        await replace_book(database, *replacement)
        gate.set()

        assert set(pages(await finding)) <= {section.page for section in replacement}


async def test_a_database_that_fails_while_the_book_is_looked_at_leaves_the_book_as_it_was(
    database: Database, search: BookSearch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replace_book(database, *ROBOTS)
    await find(search, "legs")
    monkeypatch.setattr("app.book.search.known_books", lambda **_: text("SELECT no_such_function()"))

    assert pages(await find(search, "wheels"))[0] == "wheels"

    assert len(events(caplog, "book.unread")) == 1


# Databases of other kinds


@pytest.fixture
async def array_database(array: str) -> AsyncIterator[Database]:
    async with opened(array) as database:
        yield database


async def test_without_pgvector_the_words_decide(array_database: Database, model_server: FakeOpenAI) -> None:
    await replace_book(array_database, *ROBOTS)

    async with searching(array_database, model_server) as search:
        assert pages(await find(search, "legs")) == ["legs"]

    assert model_server.embedding_requests == []


async def test_pgvector_is_used_in_whichever_schema_it_is(vector_elsewhere: str, model_server: FakeOpenAI) -> None:
    async with opened(vector_elsewhere) as database:
        await replace_book(database, *ROBOTS)
        async with searching(database, model_server) as search:
            hits = await find(search, "legs")

    assert len(hits) == 4
    assert all(hit.meaning_rank for hit in hits)


async def test_a_database_that_is_not_migrated_has_no_book(
    empty_url: str, model_server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(dsn.parse(empty_url), pool_size=1)
    async with searching(database, model_server) as search:
        assert await find(search, "legs") == []
    await database.close()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_search_works_behind_a_pooler_in_transaction_mode(
    postgres: PostgresServer, postgres_url: str, tmp_path: Any, model_server: FakeOpenAI
) -> None:
    async with opened(postgres_url) as direct:
        await replace_book(direct, *ROBOTS)
        async with TlsPooler(tmp_path, int(postgres_url.rpartition(":")[2].partition("/")[0])).serve() as pooler:
            name = postgres_url.rpartition("/")[2]
            pooled = Database(dsn.parse(pooler.url(name, sslmode="require", pgbouncer="true")), pool_size=5)
            async with searching(pooled, model_server) as search:
                found = await asyncio.gather(*(find(search, f"legs {number}") for number in range(20)))
            await pooled.close()

    assert [(pages(hits)[0], hits[0].meaning_rank) for hits in found] == [("legs", 1)] * 20


# Turns


async def test_a_turn_answers_from_what_is_found(service: Service, model_server: FakeOpenAI, database_url: str) -> None:
    async with opened(database_url) as database:
        await replace_book(database, *ROBOTS)

        first = await service.chat("What walks on legs?")
        await service.chat("And on wheels?", session_id=first.json()["session_id"])

    prompt = model_server.prompt[-1]["content"]
    assert question_in(prompt) == "And on wheels?"
    assert prompt.index(WHEELS.text) < prompt.index(LEGS.text), "the question before counts less"
    assert model_server.embedded == ["What walks on legs?", "And on wheels?"]
    assert [message.role for message in await service.tables.messages()] == [
        MessageRole.user,
        MessageRole.assistant,
    ] * 2


async def test_a_turn_without_a_book_costs_no_statement_more(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.book.search._READING_SECONDS", 1000)

    async def ask_twice() -> list[int]:
        session_id = (await service.chat("What walks?")).json()["session_id"]
        await service.chat("And flies?", session_id=session_id)
        return [record["database_statements"] for record in service.log("request")[-2:]]

    searched = await ask_twice()
    plug_in(retrieve_nothing)

    assert searched == await ask_twice()
    assert model_server.embedding_requests == []


async def test_a_turn_with_an_excerpt_searches_nothing(
    service: Service, model_server: FakeOpenAI, database_url: str
) -> None:
    async with opened(database_url) as database:
        await replace_book(database, *ROBOTS)

        await service.chat("What walks?", selected_text="A dog walks.")

    assert model_server.embedding_requests == []
    assert LEGS.text not in model_server.prompt[-1]["content"]
