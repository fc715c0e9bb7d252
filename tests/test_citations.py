"""Citation markers, as a function of the answer's text: examples, and properties that are true for any text."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.citations import cite, marker_ends, without_markers


@pytest.mark.parametrize(
    ("text", "cited", "numbers"),
    [
        ("It walks [1].", "It walks [1].", [1]),
        ("It walks [2][1].", "It walks [2][1].", [1, 2]),
        ("It walks [1], [2].", "It walks [1], [2].", [1, 2]),
        ("It walks [1, 2].", "It walks [1][2].", [1, 2]),
        ("It walks [1,2;3].", "It walks [1][2][3].", [1, 2, 3]),
        ("It walks [1-3].", "It walks [1][2][3].", [1, 2, 3]),
        ("It walks [2 – 3].", "It walks [2][3].", [2, 3]),  # noqa: RUF001  # Models write it.
        ("It walks [3-2].", "It walks [2][3].", [2, 3]),
        ("It walks [1-999999999].", "It walks [1][2][3].", [1, 2, 3]),
        ("It walks [1, 1].", "It walks [1].", [1]),
        ("It walks [[1]].", "It walks [1].", [1]),
        ("It walks [Passage 1].", "It walks [1].", [1]),
        ("It walks [passages 1, 2].", "It walks [1][2].", [1, 2]),
        ("It walks [source 3].", "It walks [3].", [3]),
        ("It walks【1】.", "It walks[1].", [1]),
        ("It walks【1†L3-L5】.", "It walks[1].", [1]),
        ("It walks 【2†source】.", "It walks [2].", [2]),
        ("It walks ［１］.", "It walks [1].", [1]),  # noqa: RUF001
        ("یہ چلتا ہے [۲]\N{ARABIC FULL STOP}", "یہ چلتا ہے [2]\N{ARABIC FULL STOP}", [2]),
        ("یہ چلتا ہے [۲، ۳]\N{ARABIC FULL STOP}", "یہ چلتا ہے [2][3]\N{ARABIC FULL STOP}", [2, 3]),
        ("[1] says so.", "[1] says so.", [1]),
        ("[1] [2] say so.", "[1] [2] say so.", [1, 2]),
        ("| legs [1] | wheels [2] |", "| legs [1] | wheels [2] |", [1, 2]),
    ],
)
def test_however_a_model_writes_a_marker_it_becomes_a_number_in_brackets(
    text: str, cited: str, numbers: list[int]
) -> None:
    assert cite(text, 3) == (cited, numbers)


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("It walks [7].", "It walks."),
        ("It walks [7] and runs.", "It walks and runs."),
        ("It walks [7][8].", "It walks."),
        ("It walks [7] [8].", "It walks."),
        ("It walks [7, 8].", "It walks."),
        ("It walks [4-9].", "It walks."),
        ("It walks [2024].", "It walks."),
        ("It walks【7†source】.", "It walks."),
        ("[7] It walks.", "It walks."),
        ("- [7] It walks.\n- It runs [8].", "- It walks.\n- It runs."),
        ("  [7]  It walks.", "  It walks."),
        ("It walks [7]\nand runs.", "It walks\nand runs."),
        ("[7]", ""),
    ],
)
def test_markers_of_passages_that_do_not_exist_leave_no_gap(text: str, cited: str) -> None:
    assert cite(text, 3) == (cited, [])


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("It walks [7][1].", "It walks [1]."),
        ("It walks [1][7].", "It walks [1]."),
        ("It walks [7, 1].", "It walks [1]."),
        ("It walks [7] [1].", "It walks [1]."),
        ("It walks [1] [7] (see above).", "It walks [1] (see above)."),
    ],
)
def test_beside_one_that_exists_only_the_other_is_removed(text: str, cited: str) -> None:
    assert cite(text, 3) == (cited, [1])


LOOKALIKES = [
    "`legs[1]`",
    "``legs[`1`][7]``",
    "`a\nb[7]`",
    "```python\nlegs[7] = legs[1]\n```",
    "~~~\nlegs[7]\n```\n~~~",
    "> ```\n> legs[7]\n> ```",
    "1. ```\n   legs[7]\n   ```",
    "````\n```\nlegs[7]\n```\n````",
    "```\nnever closed[7]",
    "[1](https://example.org)",
    "[7](#seven)",
    "[7](https://example.org/never-closed",
    "[see [7]](https://example.org/a_(b))",
    "[[7]](https://example.org)",
    "![7](robot.png)",
    "[7]: https://example.org",
    "It walks.[^7]",
    "[^1]: It walks.",
    "\\[7]",
    "\\[ [7] \\]",
    "\\( x[7] \\)",
    "$x \\in [1, 7]$",
    "$$\nx[7]\n$$",
    "between [0, 1]",
    "legs[0]",
    "[-1, 1]",
    "[0.5, 7.5]",
    "[x] [ ] [7a] [a7] []",
    "[[7, 8], [9, 10]]",
    "【注意】",
]


@pytest.mark.parametrize("text", LOOKALIKES)
def test_what_only_looks_like_a_marker_stays_as_it_is(text: str) -> None:
    assert cite(text, 3) == (text, [])
    assert without_markers(text) == text


@pytest.mark.parametrize(
    "text",
    ["It costs $5 [1] or $6 [2].", "a ` b [1] c [2]", "`a\n\nb [1] ` c [2]", "```x``` [1][2]", "\\\\[1] \\a [2]"],
)
def test_what_only_looks_like_code_or_a_formula_has_markers(text: str) -> None:
    assert cite(text, 3) == (text, [1, 2])


def test_without_passages_the_text_stays_as_it_is() -> None:
    assert cite("It walks [1], [7].【2】", 0) == ("It walks [1], [7].【2】", [])


def test_a_text_loses_its_markers_and_nothing_else() -> None:
    assert without_markers("It walks [1][2]. Code: `a[1]`.\n\n[2] It runs.") == "It walks. Code: `a[1]`.\n\nIt runs."


def test_a_text_of_markers_alone_is_kept_so_that_no_message_is_empty() -> None:
    assert without_markers("[1][2]") == "[1][2]"


def test_each_number_has_its_place_at_the_end_of_its_first_marker() -> None:
    text = "`[1]` It walks [2][1]. It runs [1]."

    ends = marker_ends(text)

    assert {number: text[:end] for number, end in ends.items()} == {1: "`[1]` It walks [2][1]", 2: "`[1]` It walks [2]"}


markers = st.sampled_from(["[{}]", "【{}】", "【{}†source】", "[[{}]]", "[passage {}]", "[{}, 9]", "[9-{}]"])
words = st.text(alphabet="abcdeß漢ر ", min_size=1, max_size=8).map(lambda text: f" {text.strip() or 'x'}")


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, set[int], list[str]]:
    """An answer in paragraphs, the numbers of its markers, and what in it looks like markers and is none."""
    paragraphs, numbers, lookalikes = [], set(), []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            lookalike = draw(st.sampled_from([text for text in LOOKALIKES if "never" not in text]))
            lookalikes.append(lookalike)
            paragraphs.append(lookalike)
            continue
        parts = []
        for _ in range(draw(st.integers(1, 5))):
            number = draw(st.integers(1, 9))
            numbers.add(number)
            parts += [draw(words), " " * draw(st.integers(0, 1)), draw(markers).format(number)]
        paragraphs.append("".join([*parts, "."]).lstrip())
    return "\n\n".join(paragraphs), numbers, lookalikes


@given(answers(), st.integers(1, 8))
def test_of_whatever_answer_every_marker_names_a_passage_and_what_is_no_marker_is_unchanged(
    answer: tuple[str, set[int], list[str]], passages: int
) -> None:
    text, numbers, lookalikes = answer

    cited, cited_numbers = cite(text, passages)

    assert {number for number in numbers if number <= passages} <= set(cited_numbers)
    assert cited_numbers == sorted(marker_ends(cited))
    assert all(1 <= number <= passages for number in cited_numbers)
    assert [paragraph for paragraph in cited.split("\n\n") if paragraph in lookalikes] == lookalikes
    assert not re.search("【\\d", cited)
    assert cite(cited, passages) == (cited, cited_numbers)


@given(answers())
def test_without_its_markers_an_answer_has_the_same_words(answer: tuple[str, set[int], list[str]]) -> None:
    text, numbers, lookalikes = answer

    bare = without_markers(text)

    assert marker_ends(bare) == {}
    assert [paragraph for paragraph in bare.split("\n\n") if paragraph in lookalikes] == lookalikes
    if not lookalikes:
        assert re.findall(r"[^\W\d]+", bare) == re.findall(
            r"[^\W\d]+", re.sub(r"【\d†source】|\[passage \d\]", "", text)
        )
    assert (bare == text) == (not numbers)


@given(st.text(alphabet="[]1279,- \n`$\\()【】†~^:>é") | st.text(), st.integers(0, 3))
def test_of_any_text_whatever_is_cited_exists_and_no_other_character_comes_in(text: str, passages: int) -> None:
    cited, numbers = cite(text, passages)

    assert numbers == sorted(set(numbers) & set(range(1, passages + 1)))
    assert set(cited) <= {*text, *"[]123"}


@given(st.text(alphabet=st.characters(exclude_categories=["Nd"])), st.integers(0, 3))
def test_a_text_without_digits_stays_as_it_is(text: str, passages: int) -> None:
    assert cite(text, passages) == (text, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "[",
        "`",
        "\\[",
        "$",
        "$ a",
        " ",
        "[1",
        "[1, ",
        "[1]",
        "[[1]",
        "[1], ",
        "[a](",
        "![](",
        "~~~\n",
        "> ",
        "1. ",
        "(",
        "1-",
    ],
)
def test_no_text_takes_long(part: str) -> None:
    started = time.process_time()

    cite(part * 20_000, 3)

    assert time.process_time() - started < 2
