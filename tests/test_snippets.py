"""The snippets of sources: the beginning of a passage as its page shows it."""

from typing import Any

import pytest
from dirty_equals import IsPartialDict
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval import Passage, Query
from app.snippets import MOST_CHARS, snippet_of
from tests.conftest import PlugIn, Service
from tests.events import all_events
from tests.fake_openai import FakeOpenAI, stream
from tests.marks import on_one_database
from tests.test_hostile import MOST, growth


@pytest.mark.parametrize(
    ("text", "snippet"),
    [
        ("It walks.", "It walks."),
        ("## Legs {#legs}\n\nIt walks\non two legs.\n\n### Arms\n\nIt waves.", "It walks on two legs.\nIt waves."),
        ("It **walks**, *really* and ***always***, ~~not~~ as __Spot__ does.", "It walks, really and always, not as Spot does."),
        ("**Strong *and* both**, _so ~~not~~ it is_.", "Strong and both, so not it is."),
        ("See [the *page*](/a_(b)), [here][one], ![a leg](leg.png) and `snake_case_name`[^1].", "See the page, here, and snake_case_name."),
        ("The force $F_1 * m_2 = \\, a$ of snake_case 2 * 3 * 4.", "The force $F_1 * m_2 = \\, a$ of snake_case 2 * 3 * 4."),
        ("- one\n- [x] two\n  goes on\n1. three\n\n> A quotation.", "one\ntwo goes on\nthree\nA quotation."),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nAfter it.", "After it."),
        ("```python\nx = 1\n\ny = 2\n```\n\nAfter it.\n\n$$\nx\n$$\n\n~~~\nopen", "After it."),
        (":::note\n\nIt is noted.\n\n:::\n\n---\n\n![a leg](leg.png)\n\n[one]: https://book.example.org", "It is noted."),
        ("<!-- not\n\nthis -->A key, 1 < 2 \\* 3.<!---->", "A key, 1 < 2 * 3."),
        ("<!-- a comment -->Text, and <!-- one that is open", "Text, and <!-- one that is open"),
        ("Before it. <!--" + "a" * 5_000 + "-->", "Before it."),
        ("Use Vec<T> or List<String> in a <div>.", "Use Vec<T> or List<String> in a <div>."),
        ("See <https://example.org/_x_>, ask <a@b.org>.", "See https://example.org/_x_, ask a@b.org."),
        ("Write __init__ and __main__.py, not __this one__.", "Write __init__ and __main__.py, not this one."),
        ("Before it.\na | b\n---|---\n1 | 2\n\nAfter | it.", "Before it.\nAfter | it."),
        ("line\\\nnext `a\\\nb` *a \\* b*\\", "line next a\\ b a * b\\"),
        ("A ``run of ` two`` and `one`, \\`not code.", "A run of ` two and one, `not code."),
        ("```python\nx = 1\n```", ""),
        ("", ""),
        ("word " * 60, "word " * 39 + "word…"),
        ("語" * 300, "語" * MOST_CHARS + "…"),
        ("序。\n\n" + "語" * 300, "序。\n" + "語" * (MOST_CHARS - 3) + "…"),
    ],
)  # fmt: skip
def test_a_snippet_is_the_beginning_of_the_prose(text: str, snippet: str) -> None:
    assert snippet_of(text) == snippet


@given(st.text(st.sampled_from("ab *_`~$[](){}<>!#|-\\\n\x001.語"), max_size=400) | st.text(max_size=400))
def test_a_snippet_of_any_text_is_short_and_has_no_blank_line(text: str) -> None:
    snippet = snippet_of(text)

    assert len(snippet) <= MOST_CHARS + 1
    assert all(line.strip() for line in snippet.split("\n") if snippet)


@pytest.mark.parametrize("length", [600, 4_000])
@pytest.mark.parametrize(
    "piece",
    [
        *(
            "word `",
            "` `` ``` ",
            "**a ",
            "_a ",
            "a *",
            "~~a ",
            "*_~~",
            "\\(",
            "$a ",
            "[^`",
            "[^",
            "![a](",
            "[a](()",
            "<!--",
        ),
        *("<https://", "<a@", "a|b\n---|---\n", "- []()\n", "```\n", "\\\n", "\n", "\t"),
    ],
)
def test_the_time_of_a_snippet_does_not_grow_with_the_square_of_the_length(piece: str, length: int) -> None:
    assert growth(lambda count: snippet_of((piece * count)[:count]), length) < MOST


@on_one_database
async def test_sources_have_snippets_where_they_are_asked_for(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    async def retriever(_query: Query) -> list[Passage]:
        return [
            Passage(text="# Legs\n\nIt has **two**.", source="https://book.example.org/legs", title="Legs"),
            Passage(text="```\ncode\n```", source="https://book.example.org/code", title="Code"),
        ]

    plug_in(retriever)
    plain = [
        {"number": 1, "title": "Legs", "url": "https://book.example.org/legs"},
        {"number": 2, "title": "Code", "url": "https://book.example.org/code"},
    ]
    told = [{**plain[0], "snippet": "It has two."}, plain[1]]
    asked: tuple[tuple[dict[str, Any], list[dict[str, Any]]], ...] = (
        ({"snippets": True}, told),
        ({}, plain),
        ({"snippets": False}, plain),
    )
    for fields, sources in asked:
        model_server.enqueue(stream("Two [1][2]."))
        events = await all_events(service, **fields)

        assert events[1] == ("sources", {"sources": sources})
        assert events[-1][1]["sources"] == sources
        path = f"/chat/{events[0][1]['session_id']}/messages"
        answer = (await service.client.get(path)).json()["data"][1]
        assert answer["sources"] == sources

    model_server.enqueue(stream("Two [1]."))
    response = await service.client.post(f"{path}/{answer['id']}/regenerate/stream", json={"snippets": True})
    assert '"snippet":"It has two."' in response.text
    [_, answer] = (await service.client.get(path)).json()["data"]
    assert answer == IsPartialDict(sources=told[:1])
