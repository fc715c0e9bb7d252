"""The book's chunks through their model, on every kind of column that an embedding can have."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import bindparam, insert, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import dsn
from app.database import Database
from app.models import Document
from tests.conftest import column_type

# PostgreSQL's `real` holds them exactly.
RISING = [number / 1024 for number in range(1536)]
FALLING = [-number for number in RISING]


@pytest.fixture
def json(migrated_sqlite_url: str) -> str:
    """An SQLite database."""
    return migrated_sqlite_url


@pytest.fixture
def vector(migrated_url: str) -> str:
    """A PostgreSQL database with pgvector."""
    assert column_type(migrated_url) == "vector"
    return migrated_url


@pytest.fixture(
    params=["json", "vector", *(pytest.param(name, marks=pytest.mark.slow) for name in ("array", "vector_elsewhere"))]
)
def url(request: pytest.FixtureRequest) -> str:
    """A migrated database with each kind of column."""
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """The database, connected to as the service does."""
    database = Database(dsn.parse(url), pool_size=1)
    yield database
    await database.close()


def chunk(title: str, embedding: list[float] | None = None) -> Document:
    return Document(source="book.md", title=title, position=0, content="A robot.", embedding=embedding)


async def add(database: Database, *chunks: Document) -> None:
    async with AsyncSession(database.engine) as orm:
        orm.add_all(chunks)
        await orm.commit()


async def test_an_embedding_is_read_back_as_it_was_written(database: Database) -> None:
    await add(database, chunk("rising", RISING), chunk("falling", FALLING), chunk("none"))

    async with AsyncSession(database.engine) as orm:
        found = {document.title: document.embedding for document in (await orm.exec(select(Document))).all()}

    assert found == {"rising": RISING, "falling": FALLING, "none": None}
    assert type(found["rising"]) is list


async def test_a_chunk_without_an_embedding_is_found_by_that(database: Database) -> None:
    await add(database, chunk("embedded", RISING), chunk("none"))

    rows = await database.execute((select(col(Document.title)).where(col(Document.embedding).is_(None)), {}))

    assert [row.title for row in rows] == ["none"]


async def test_an_embedding_is_changed_and_returned_by_statements_too(database: Database) -> None:
    embedding = col(Document.embedding)
    columns = {name: value for name, value in chunk("moving", RISING).model_dump().items() if name != "meta"}
    inserted = await database.execute((insert(Document).returning(embedding), {**columns, "metadata": {}}))
    changed = update(Document).values(embedding=bindparam("changed")).returning(embedding)
    updated = await database.execute((changed, {"changed": FALLING}))
    selected = await database.execute((select(embedding), {}))

    assert [inserted[0].embedding, updated[0].embedding, selected[0].embedding] == [RISING, FALLING, FALLING]


@pytest.mark.parametrize("url", ["vector"], indirect=True)
async def test_the_nearest_chunks_are_found_through_the_model(database: Database) -> None:
    await add(database, chunk("rising", RISING), chunk("falling", FALLING))
    embedding: Any = Document.embedding  # Its comparisons are pgvector's, which the type of its values does not have.
    for question in (FALLING, bindparam("question", type_=VECTOR)):
        distance = embedding.cosine_distance(question).label("distance")

        rows = await database.execute((select(col(Document.title), distance).order_by(distance), {"question": FALLING}))

        assert [tuple(row) for row in rows] == [("falling", 0.0), ("rising", 2.0)]
