"""The words of a text, and where the databases keep those of a chunk."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import delete, text
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app import dsn
from app.book.words import configuration, index_words, prune_words, searchable
from app.database import Database
from app.models import Document
from tests import kept
from tests.books import clear


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("store.dispatch(action)", "store dispatch action"),
        ("createSlice", "createSlice create Slice"),
        ("spin_once", "spin once"),
        ("react-redux/hooks", "react redux hooks"),
        ("' OR \" & | ! ( ) : * <-> NEAR", "OR NEAR"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("\N{LATIN SMALL LIGATURE FI}eld", "field"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER R}OS\N{FULLWIDTH DIGIT TWO}", "ROS2"),
        ("\N{ARABIC LETTER KAF INITIAL FORM}\N{ARABIC LETTER TEH ISOLATED FORM}", "كت"),
        ("كِتَاب", "كتاب"),
        ("رو بوٹ؟", "رو بوٹ"),
        ("हिन्दी", "हिन्दी"),
        ("機械学習", "機械 械学 学習"),
        ("愛", "愛"),
        ("用Python学", "用 Python 学"),
        ("?!…", ""),
    ],
)
def test_the_words_of_a_text(written: str, words: str) -> None:
    assert " ".join(searchable(written).split()) == words


@pytest.mark.parametrize(
    ("locale", "name"),
    [
        ("en", "english"),
        ("pt-BR", "portuguese"),
        ("de_CH", "german"),
        ("ur", "simple"),
        ("", "english"),
        (None, "english"),
    ],
)
def test_the_configuration_of_a_locale(locale: str | None, name: str) -> None:
    assert configuration(locale) == name


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = kept.database(dsn.parse(database_url), pool_size=1)
    await clear(database)
    yield database
    await clear(database)
    await database.close()


async def store(database: Database, *chunks: Document) -> None:
    engine = database.engine.execution_options(isolation_level="SERIALIZABLE")
    async with AsyncSession(engine, expire_on_commit=False) as orm:
        orm.add_all(chunks)
        await orm.flush()
        await index_words(await orm.connection(), chunks)
        await orm.commit()


def chunk(content: str, **meta: str) -> Document:
    return Document(source="robots#legs", title="Robots: legs", position=0, content=content, meta=meta)


async def indexed(database: Database) -> list[str]:
    column = "content" if database.dsn.sqlite else "words::text"
    rows = await database.execute((text(f"SELECT {column} AS words FROM document_words ORDER BY 1"), {}))
    return [row.words for row in rows]


async def test_the_words_of_chunks_go_with_them(database: Database) -> None:
    await store(database, chunk("It walks."), chunk("It runs."))
    async with database.engine.begin() as connection:
        await connection.execute(delete(Document).where(col(Document.content) == "It walks."))
        await prune_words(connection)

    assert len(await indexed(database)) == 1


async def test_a_chunk_that_is_indexed_again_has_its_new_words_only(database: Database) -> None:
    walking = chunk("It walks.", locale="en")
    await store(database, walking)
    async with database.engine.begin() as connection:
        await index_words(connection, [Document(**{**chunk("It flies.", locale="en").model_dump(), "id": walking.id})])

    [words] = await indexed(database)
    assert words in {"It flies ", "'fli':6 'leg':2,4 'robot':1,3"}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_stems_the_words_in_the_language_of_the_chunk(database: Database) -> None:
    await store(database, *(chunk("running", locale=locale) for locale in ("en", "ur", "xx")))

    # The title counts twice.
    stemmed, plain = "'leg':2,4 'robot':1,3 'run':5", "'legs':2,4 'robots':1,3 'running':5"
    assert await indexed(database) == [stemmed, plain, plain]


async def test_a_whole_book_is_indexed(database: Database) -> None:
    await store(database, *(chunk(f"Robot {number}") for number in range(1_001)))

    assert len(set(await indexed(database))) == 1_001
