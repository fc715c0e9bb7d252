"""The offline stand-in, called by the real SDK in the real service: what it quotes, and that it says what it is."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, DefaultAsyncHttpx2Client

from app.offline import PREFACE, OfflineTransport
from app.prompt import assemble_prompt
from app.retrieval import Findings, Passage, Query
from tests import kept
from tests.conftest import PlugIn, Serve, Service
from tests.events import all_events

QUOTATION = f"{PREFACE} The closest sentences of the text: "
BEGINNING = f"{PREFACE} The text begins: "
SILENCE = f"{PREFACE} The text does not say: none of its sentences shares a word with the question."

BALANCE = "A humanoid robot balances by moving its zero moment point into the area of its feet."
SENSORS = "Its joints are measured by encoders, and its posture by an inertial measurement unit."
HISTORY = "The first full-scale humanoid robot, WABOT-1, was built at Waseda University in 1973!"
TEXT = f"{BALANCE} {SENSORS}\n\n{HISTORY}"


@pytest.fixture
def database_url(sqlite_url: str, _kept: None) -> str:
    """The embedded database alone, since nothing here depends on the kind."""
    kept.keep(sqlite_url)
    return sqlite_url


@pytest.fixture
async def offline(serve: Serve) -> Service:
    """The service as `fastapi dev` starts it without a key."""
    return await serve(OPENAI_API_KEY="", OPENAI_BASE_URL="", FASTAPI_ENV="development")


async def answer(service: Service, message: str, **fields: Any) -> str:
    response = await service.chat(message, **fields)
    assert response.status_code == 200, response.text
    text: str = response.json()["response"]
    return text


async def complete(messages: Sequence[Any]) -> str:
    """The whole answer, through the SDK."""
    async with client() as model:
        completion = await model.chat.completions.create(model="any", messages=messages)
    [choice] = completion.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    return choice.message.content


def client() -> AsyncOpenAI:
    return AsyncOpenAI(api_key="offline", http_client=DefaultAsyncHttpx2Client(transport=OfflineTransport()))


async def test_it_says_what_it_is(offline: Service) -> None:
    assert (await answer(offline, "What is a robot?")).startswith("[Offline stand-in, not a language model] ")


async def test_the_start_warns_of_it(offline: Service) -> None:
    [warning] = offline.log("openai.offline")

    assert (warning["level"], warning["reason"]) == ("WARNING", "OPENAI_API_KEY is not set; answers only quote")


async def test_a_key_leaves_it_out(serve: Serve) -> None:
    service = await serve(FASTAPI_ENV="development")

    assert await answer(service, "What is a robot?") == "Answer 1 to: What is a robot?"
    assert service.log("openai.offline") == []


@pytest.mark.parametrize(
    ("question", "sentences"),
    [
        ("How does a humanoid balance?", BALANCE),
        ("What do encoders measure in the joints?", SENSORS),
        ("When was WABOT-1 built?", HISTORY),
        ("WHEN WAS WABOT-1 BUILT?", HISTORY),
        ("Which units are measured?", SENSORS),
        ("Was WABOT-1 built with encoders in its joints?", f"{SENSORS} {HISTORY}"),
    ],
)
async def test_it_quotes_the_sentences_that_fit_the_question(offline: Service, question: str, sentences: str) -> None:
    assert await answer(offline, question, selected_text=TEXT) == QUOTATION + sentences


async def test_it_quotes_no_more_than_three_sentences_in_the_order_of_the_text(offline: Service) -> None:
    sentences = [f"Robot number {number} walks." for number in range(5)]

    reply = await answer(offline, "Which robot walks? Robot 4?", selected_text=" ".join(sentences))

    assert reply == QUOTATION + " ".join(sentences[:3])


async def test_what_fits_best_does_not_come_before_what_the_text_has_before_it(offline: Service) -> None:
    text = "Some legs walk far. Some arms wave. Some wheels roll fast on roads."

    reply = await answer(offline, "Do legs walk? Do wheels roll on roads?", selected_text=text)

    assert reply == QUOTATION + "Some legs walk far. Some wheels roll fast on roads."


@pytest.mark.parametrize("question", ["Who cooks the dinner?", "¿Qué?"])
async def test_it_says_so_when_the_text_does_not_hold_the_answer(offline: Service, question: str) -> None:
    assert await answer(offline, question, selected_text=TEXT) == SILENCE


@pytest.mark.parametrize("question", ["Why?", "?!", "What is the what of that?"])
async def test_asked_about_nothing_it_says_how_the_text_begins(offline: Service, question: str) -> None:
    reply = await answer(offline, question, selected_text=TEXT)

    assert reply.startswith(BEGINNING)
    assert TEXT.startswith(reply.removeprefix(BEGINNING)[:80])


async def test_words_that_every_text_has_tell_nothing(offline: Service) -> None:
    reply = await answer(
        offline, "Was his the one that does this?", selected_text="Its motor was built. This does his work."
    )

    assert reply == SILENCE


async def test_it_quotes_sentences_of_other_languages(offline: Service) -> None:
    walks = "ہیومنائڈ روبوٹ دو ٹانگوں پر چلتا ہے\N{ARABIC FULL STOP}"
    arms = "اس کے بازو انسان جیسے ہوتے ہیں\N{ARABIC FULL STOP}"

    assert await answer(offline, "بازو کیسے ہوتے ہیں؟", selected_text=f"{walks} {arms}") == QUOTATION + arms


async def test_without_a_text_it_tells_how_much_of_the_conversation_it_was_sent(offline: Service) -> None:
    first = (await offline.chat("What is a robot?")).json()
    second = await answer(offline, "And a humanoid?", session_id=first["session_id"])

    assert "with 0 earlier messages" in first["response"]
    assert "with 2 earlier messages" in second


async def test_it_quotes_retrieved_passages(offline: Service, plug_in: PlugIn) -> None:
    passages = [
        Passage(text=f"{BALANCE} {SENSORS}", source="walking.md", title='On "walking" <draft>'),
        Passage(text=HISTORY, source="history.md", title="History"),
    ]

    async def retrieve(_query: Query) -> Sequence[Passage]:
        return passages

    plug_in(retrieve)

    assert await answer(offline, "When was WABOT-1 built?") == f"{QUOTATION}{HISTORY} [2]"
    assert await answer(offline, "How does a humanoid balance?") == f"{QUOTATION}{BALANCE} [1]"
    assert await answer(offline, "How do encoders measure WABOT-1?") == f"{QUOTATION}{SENSORS} [1] {HISTORY} [2]"
    assert await answer(offline, "Who cooks the dinner?") == SILENCE
    [*_, (_, done)] = await all_events(offline, "When was WABOT-1 built?")
    assert done["sources"] == [{"number": 2, "title": "History", "url": "history.md"}]


MARKDOWN = """\
# Walking robots

Gait
====

A **biped** walks [on two legs](../gait.md#legs), as *Atlas* and `WABOT-1` do, and
needs _balance_ [3]. ![Atlas walks](atlas.png)

:::tip Walks
> A walk is a *controlled* fall.
:::

- [ ] Wheels walk nowhere
1. Legs walk upstairs

| robot | legs | |
|:--|--:|---|
| Hexapod walker | 6 | walks |
| Spot | 4 | |

---

```python
# A walk in code.
walk(legs[1])
```

$$
walk = 2
$$

<!-- Walks unseen. -->
<div lang="en">

Snake_case_names and 2 * 3 * 4 do not walk.
</div>

~~~
walk without an end
"""


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What does a biped do?", "A biped walks on two legs, as Atlas and `WABOT-1` do, and needs balance."),
        ("What is a controlled fall?", "A walk is a controlled fall."),
        ("Where do wheels go?", "Wheels walk nowhere"),
        ("Who goes upstairs?", "Legs walk upstairs"),
        ("What is a hexapod?", "robot: Hexapod walker, legs: 6, walks"),
        ("And Spot?", "robot: Spot, legs: 4"),
        ("What are snake_case_names?", "Snake_case_names and 2 * 3 * 4 do not walk."),
    ],
)
async def test_the_markdown_of_a_passage_does_not_get_into_its_sentences(question: str, sentence: str) -> None:
    passage = Passage(text=MARKDOWN, source="https://book.example.org/walking", title="Walking")

    reply = await complete(assemble_prompt(question, book_title="Robots", found=Findings([passage])))

    assert reply == f"{QUOTATION}{sentence} [1]"


@pytest.mark.parametrize("question", ["Python code?", "unseen", "tip", "without an end", "Gait?", "lang"])
async def test_headings_code_and_comments_are_not_quoted(question: str) -> None:
    passage = Passage(text=MARKDOWN, source="https://book.example.org/walking", title="Walking")

    assert await complete(assemble_prompt(question, book_title="Robots", found=Findings([passage]))) == SILENCE


async def test_of_several_passages_the_first_sentences_of_each_are_quoted() -> None:
    passages = [Passage(f"{name} one. {name} two. {name} three.", f"/{name}", name) for name in ("Arm", "Leg")]

    reply = await complete(assemble_prompt("What is this?", book_title="Robots", found=Findings(passages)))

    assert reply == f"{BEGINNING}Arm one. [1] Arm two. [1] Leg one. [2] Leg two. [2]"


async def test_an_excerpt_is_quoted_as_it_is_and_without_a_number() -> None:
    excerpt = "A **biped** walks [3]."

    assert await complete(assemble_prompt("A biped?", book_title="Robots", excerpt=excerpt)) == QUOTATION + excerpt


async def test_a_stream_is_the_same_answer_in_pieces() -> None:
    prompt: Any = assemble_prompt("When was WABOT-1 built?", book_title="Robots", excerpt=TEXT)

    async with client() as model:
        stream = await model.chat.completions.create(model="any", messages=prompt, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]

    deltas = [choice.delta.content for choice in chunks if choice.delta.content]
    assert len(deltas) > 5
    assert "".join(deltas) == await complete(prompt) == QUOTATION + HISTORY
    assert [choice.finish_reason for choice in chunks] == [None] * (len(chunks) - 1) + ["stop"]


def is_quoted_from(text: str, quotation: str, *, most: int = 3) -> bool:
    """Whether the quotation is made of at most so many parts of the text, with a space between them."""
    if quotation in text:
        return True
    spaces = [index for index, character in enumerate(quotation) if character == " "]
    return most > 1 and any(
        quotation[:index] in text and is_quoted_from(text, quotation[index + 1 :], most=most - 1) for index in spaces
    )


WORDS = st.sampled_from(
    ["robot", "robots", "leg", "Sensor.", "sensor", "1973", "مشین\N{ARABIC FULL STOP}", "why?", "<tag>", "\n\n", "\n"]
)
PROSE = st.lists(WORDS | st.text(max_size=8), min_size=1, max_size=30).map(" ".join)


@given(question=PROSE, text=PROSE)
async def test_whatever_is_asked_of_whatever_text_it_only_quotes(question: str, text: str) -> None:
    reply = await complete(assemble_prompt(question, book_title="Robots", excerpt=text))

    assert reply == SILENCE or is_quoted_from(text, reply.removeprefix(QUOTATION).removeprefix(BEGINNING))


@given(question=PROSE, text=PROSE | st.text(alphabet="#|-*`>_~[]()!:$ \nab1"))
async def test_of_whatever_passage_every_sentence_has_its_number(question: str, text: str) -> None:
    passage = Passage(text=text, source="https://book.example.org", title="A title")

    reply = await complete(assemble_prompt(question, book_title="Robots", found=Findings([passage])))

    assert reply == SILENCE or re.fullmatch(r"(?s).+ \[1\]", reply.removeprefix(QUOTATION).removeprefix(BEGINNING))
