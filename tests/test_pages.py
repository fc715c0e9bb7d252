"""The pages of a book, as its table of contents has them."""

from collections.abc import Mapping

import pytest

from app.book.chunks import Chunk
from app.book.pages import Page, pages_of
from app.book.shelf import SEPARATOR

BOOK = "https://book.example.org/docs/"


def chunk(path: str, *title: str, text: str = "Text.") -> Chunk:
    return Chunk(f"{BOOK}{path}#a", f"{BOOK}{path}", SEPARATOR.join(title), 0, text)


def pages(*chunks: Chunk, parts: Mapping[str, str] | None = None) -> list[Page]:
    return pages_of(BOOK, chunks, parts or {})


@pytest.mark.parametrize(
    ("given", "own", "title"),
    [
        ({"moving-parts": "Parts that move"}, [chunk("moving-parts/", "Moving")], "Parts that move"),
        ({}, [chunk("moving-parts/", "Moving")], "Moving"),
        ({}, [], "Moving parts"),
    ],
)
def test_a_folder_is_called_as_its_site_says_or_as_its_page_or_by_its_name(
    given: dict[str, str], own: list[Chunk], title: str
) -> None:
    *_, legs, glossary = pages(*own, chunk("moving-parts/legs", "Legs"), chunk("glossary", "Glossary"), parts=given)

    assert (legs.part, glossary.part) == (title, None)
    assert legs.address == f"{BOOK}moving-parts/legs"


def test_a_page_has_the_paths_of_its_headings_each_once() -> None:
    joined = "Text.\n\n## Shin\n\n```sh\n## no heading\n```\n\n### Ankle \n\nText."

    [legs] = pages(
        chunk("legs", "Legs"),
        chunk("legs", "Legs", "Knee"),
        chunk("legs", "Legs", "Knee", "Springs", text=joined),
        chunk("legs", "Legs", "Shin"),
        chunk("legs", "Legs", "Knee"),
    )

    assert (legs.title, legs.headings) == ("Legs", ["Knee", f"Knee{SEPARATOR}Springs", "Shin", "Ankle"])


def test_of_very_many_headings_the_first_hundred_are_kept() -> None:
    [page] = pages(*(chunk("log", "Log", str(number)) for number in range(150)))

    assert page.headings == [str(number) for number in range(100)]
