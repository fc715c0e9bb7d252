"""The sample book of `fastapi dev`: read in beside the service, and never its end."""

from collections.abc import AsyncIterator

import pytest

from app import dsn
from app.book import sample
from app.book.evaluation import known
from app.book.sample import PAGE, URL, SampleSearch
from app.config import Settings
from app.database import Database
from app.retrieval import Query
from tests.books import Section, replace_book

ROBOT = Section("what-is-a-robot", "A robot senses and acts.", title="What is a robot?", book=URL)


@pytest.fixture
async def database(migrated_sqlite_url: str) -> AsyncIterator[Database]:
    database = Database(dsn.parse(migrated_sqlite_url), pool_size=1)
    yield database
    await database.close()


@pytest.fixture
def search(database: Database) -> SampleSearch:
    return SampleSearch(Settings.model_validate({"fastapi_env": "development"}), database)


def about_page(url: str) -> Query:
    return Query("What is this page about?", known(None), url)


async def test_the_first_question_waits_for_the_book_and_is_asked_on_its_page(
    search: SampleSearch, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_in(_search: SampleSearch) -> None:
        await replace_book(database, ROBOT, model=None)

    monkeypatch.setattr(sample, "_read_sample_in", read_in)
    async with search:
        at_root, there, elsewhere = [
            await search(about_page(url)) for url in ("http://127.0.0.1:8000/", PAGE, "http://127.0.0.1:8000/other")
        ]

    for found in (at_root, there):
        assert ([passage.text for passage in found.passages], found.page) == ([ROBOT.text], "whole")
    assert elsewhere.page == "unknown"


async def test_a_database_that_has_a_book_does_not_get_the_sample(
    search: SampleSearch, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replace_book(database, ROBOT, model=None)

    async def read_in(_search: SampleSearch) -> None:
        raise AssertionError

    monkeypatch.setattr(sample, "_read_sample_in", read_in)
    async with search:
        assert [passage.text for passage in (await search(about_page(PAGE))).passages] == [ROBOT.text]


async def test_the_service_works_without_the_sample(
    search: SampleSearch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def read_in(_search: SampleSearch) -> None:
        raise ModuleNotFoundError("yaml")

    monkeypatch.setattr(sample, "_read_sample_in", read_in)
    async with search:
        found = await search(Query("What is a robot?", known(None), None))

    assert found.passages == []
    assert [record.getMessage() for record in caplog.records] == ["book.sample_not_read"]
