"""The table of contents as passages: its parts, their numbers, and which of them a question is about."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from app.book.contents import contents_passages
from app.book.shelf import SEPARATOR

BOOK = "https://book.example.org/docs/"


def page(path: str, title: str, part: str | None = None, *headings: str) -> Any:
    return SimpleNamespace(source=f"{BOOK}{path}", title=title, page=part, text=json.dumps(headings))


PAGES = [
    page("", "A book of robots"),
    page("moving/", "Moving", "Moving"),
    page("moving/legs", "Legs", "Moving", "Knees", f"Knees{SEPARATOR}Springs"),
    page("sensing/eyes", "Chapter 7: Eyes", "Sensing", "Lenses"),
    page("sensing/ears", "Chapter 8: Ears", "Sensing"),
    page("glossary", "Glossary", None, "Servo"),
]


def asked(question: str, pages: Sequence[Any] = PAGES) -> list[tuple[str, str, str]]:
    """The passages for the question, without the first one, of which each has all parts."""
    first, *others = contents_passages(BOOK, pages, question, here=f"{BOOK}moving/legs")
    assert (first.title, first.source) == ("Contents", BOOK)
    return [(passage.title.removeprefix(f"Contents{SEPARATOR}"), passage.source, passage.text) for passage in others]


def titles(question: str, pages: Sequence[Any] = PAGES) -> list[str]:
    return [title for title, _, _ in asked(question, pages)]


def test_the_overview_has_each_part_with_its_pages() -> None:
    [overview] = contents_passages(BOOK, PAGES, "What is in this book?", here=None)

    assert overview.text == (
        "The book has 3 parts:\n- 1. Moving (Legs)\n- 2. Sensing (Chapter 7: Eyes; Chapter 8: Ears)\n- 3. Glossary"
    )


def test_a_part_that_is_asked_for_has_its_pages_with_their_headings() -> None:
    assert asked("What does chapter 1 say?") == [
        ("Moving", f"{BOOK}moving/", "1. Moving has 2 pages:\n- Moving\n- Legs: Knees; Springs")
    ]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("What is in chapter 2?", ["Sensing"]),
        ("What is in chapter 7?", ["Sensing"]),  # Its number is that of a page.
        ("What is in chapter 9?", []),
        ("What is in the last chapter?", ["Glossary"]),
        ("Which chapter explains servos?", []),
        ("Which chapter has the servo?", ["Glossary"]),
        ("Which chapters are about springs and lenses?", ["Moving", "Sensing"]),
        ("Which chapters are about ears, eyes and springs?", ["Sensing", "Moving"]),
    ],
)
def test_a_question_names_a_part_by_its_number_its_place_or_its_words(question: str, found: list[str]) -> None:
    assert titles(question) == found


@pytest.mark.parametrize(
    ("paths", "names", "number"),
    [
        (("ch03-legs/a", "ch04-eyes/a"), ("Legs", "Eyes"), 4),
        (("week_10/a", "week_11/a"), ("Legs", "Eyes"), 11),
        (("legs/a", "eyes/a"), ("Module 5: Legs", "Module 6: Eyes"), 6),
        (("legs/a", "eyes/a"), ("5. Legs", "6. Eyes"), 6),
        (("legs/a", "eyes/a"), ("Legs", "6. Eyes"), 2),  # Most have none, so all are counted.
    ],
)
def test_a_part_has_the_number_that_its_title_or_its_address_gives_it_or_else_its_place(
    paths: tuple[str, str], names: tuple[str, str], number: int
) -> None:
    pages = [page(path, "A page", name) for path, name in zip(paths, names, strict=True)]

    assert titles(f"What is in chapter {number}?", pages) == [names[1]]


def test_the_pages_of_a_long_book_are_left_out_of_its_overview() -> None:
    pages = [page(f"part{n}/page{m}", f"Page {m} of the part", f"Part {n}") for n in range(1, 11) for m in range(40)]

    [overview, part] = contents_passages(BOOK, pages, "What is in part 3?", here=None)

    assert overview.text.splitlines() == ["The book has 10 parts:", *(f"- Part {n}" for n in range(1, 11))]
    assert part.text.startswith("Part 3 has 40 pages:\n- Page 0 of the part\n")
    assert len(part.text.encode()) <= 2_500


def test_a_book_of_one_page_has_no_table_of_contents() -> None:
    assert contents_passages(BOOK, [PAGES[0]], "What is in this book?", here=None) == []
