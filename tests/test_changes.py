"""What the commands that change the book say of what they did."""

from collections import Counter
from typing import Any

import pytest

from app.book import changes
from app.book.chunks import Chunk
from app.book.embeddings import Embedder
from app.book.ingest import Report
from app.book.tree import Book, Skipped
from app.config import Settings

URL = "https://book.example.org/docs/"


def account(report: Report, *, faults: int = 0, skipped: int = 0, **settings: Any) -> list[str]:
    """The lines on a book of two chunks, after the first one."""
    made = Settings.model_validate({"fastapi_env": "development", "openai_api_key": "sk-1", **settings})
    chunks = [Chunk(f"{URL}legs#{name}", f"{URL}legs", "Legs", at, name) for at, name in enumerate(("hip", "knee"))]
    files = [Skipped(f"{number}.md", "is a draft") for number in range(skipped)]
    lines = [f"{number}.md #{number} leads nowhere" for number in range(faults)]
    book = Book(URL, 1, chunks, files, ["A note."], faults=lines)
    first, *others = changes._account(book, report, "en", made, Embedder(made))  # noqa: SLF001  # What the command prints.
    assert first == f"{URL} (en), in the database chat.db, since DATABASE_URL is not set:"
    return others


def test_what_was_stored_and_paid_is_told() -> None:
    report = Report(new=1, unchanged=1, embedded=1, tokens=1_500_000, replaced=Counter({("old", 512): 1}))

    assert account(report) == [
        "  1 page, 2 chunks: 1 new, 1 unchanged, 0 deleted",
        "  1 chunk embedded with text-embedding-3-small: 1,500,000 tokens, about $0.0300",
        "  1 embedding of old with 512 dimensions replaced",
        "  A note.",
    ]


@pytest.mark.parametrize(
    ("has_pgvector", "why"), [(True, "OPENAI_API_KEY is not set"), (False, "the database has no pgvector")]
)
def test_chunks_without_an_embedding_are_told_with_the_reason(*, has_pgvector: bool, why: str) -> None:
    report = Report(new=2, without_embedding=2, has_pgvector=has_pgvector)

    assert account(report, openai_api_key=None)[1] == (
        f"  2 chunks without an embedding, found by words alone, since {why}. The same command adds them later."
    )


def test_a_book_with_embeddings_of_another_model_is_named() -> None:
    report = Report(others=[(f"{URL}1.0/", "old", 3), (f"{URL}2.0/", "text-embedding-3-small", 3)])

    [line] = [line for line in account(report) if "by words alone" in line]
    assert line.startswith(
        f"  {URL}1.0/ has 3 embeddings of old. Until it is read in again too, questions find every book"
    )
    assert not any("by words alone" in line for line in account(report, openai_api_key=None))


def test_of_many_faults_the_first_ten_are_listed_and_of_skipped_files_all() -> None:
    one, many = account(Report(), faults=1), account(Report(), faults=1_012, skipped=2)

    assert one[2:4] == ["  1 anchor or link leads nowhere:", "    0.md #0 leads nowhere"]
    assert many[2] == "  1,012 anchors or links lead nowhere:"
    assert many[12:] == [
        "    9.md #9 leads nowhere",
        "    and 1,002 more",
        "  2 files skipped:",
        "    0.md is a draft",
        "    1.md is a draft",
        "  A note.",
    ]
