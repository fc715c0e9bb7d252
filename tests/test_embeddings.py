"""The client of the embeddings endpoint, and what servers that are only nearly compatible get away with."""

import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.book.embeddings import MOST_BYTES, MOST_INPUTS, Embedder, EmbeddingError, padded
from app.config import Settings
from tests.conftest import API_KEY
from tests.fake_openai import (
    Exchange,
    FakeOpenAI,
    Reply,
    embedding,
    embeddings,
    failure,
    html_page,
    json_body,
    raw_body,
)

type MakeEmbedder = Callable[..., Embedder]


@pytest.fixture
async def make_embedder(model_server: FakeOpenAI) -> AsyncIterator[MakeEmbedder]:
    made: list[Embedder] = []

    def make(**settings: Any) -> Embedder:
        values = {
            "fastapi_env": "development",
            "openai_api_key": API_KEY,
            "openai_base_url": model_server.url,
            "openai_max_retries": 0,
            **settings,
        }
        made.append(Embedder(Settings.model_validate(values)))
        return made[-1]

    yield make
    for embedder in made:
        await embedder.close()


@pytest.fixture
def embedder(make_embedder: MakeEmbedder) -> Embedder:
    return make_embedder()


def unit(vector: list[float]) -> Any:
    length = math.hypot(*vector)
    return pytest.approx([number / length for number in vector], abs=1e-6)


async def test_a_request_is_what_the_api_asks_for(embedder: Embedder, model_server: FakeOpenAI) -> None:
    vectors = await embedder.embed(["A robot walks.", "It runs."])

    assert model_server.embedding_requests == [
        {"model": "text-embedding-3-small", "input": ["A robot walks.", "It runs."], "encoding_format": "base64"}
    ]
    assert vectors == [unit(embedding("A robot walks.")), unit(embedding("It runs."))]


async def test_the_servers_settings_hold_for_embeddings_too(
    make_embedder: MakeEmbedder, model_server: FakeOpenAI
) -> None:
    embedder = make_embedder(
        openai_base_url=f"{model_server.url}?api-version=1",
        openai_custom_headers="X-Team: books",
        openai_embedding_model="nomic-embed-text",
    )

    await embedder.embed(["A robot."])

    assert model_server.embedding_requests[0]["model"] == "nomic-embed-text"
    assert model_server.embedding_paths == ["/v1/embeddings?api-version=1"]
    assert model_server.embedding_headers[0]["x-team"] == "books"
    assert model_server.embedding_headers[0]["authorization"] == f"Bearer {API_KEY}"


def test_without_a_key_nothing_can_be_embedded(make_embedder: MakeEmbedder) -> None:
    assert not make_embedder(openai_api_key=None).is_available


async def test_no_texts_need_no_request(embedder: Embedder, model_server: FakeOpenAI) -> None:
    assert await embedder.embed([]) == []
    assert model_server.embedding_requests == []


async def test_many_texts_are_sent_in_parts_and_come_back_in_order(
    embedder: Embedder, model_server: FakeOpenAI
) -> None:
    model_server.enqueue_embeddings(*[embeddings(dimensions=2)] * 9)
    texts = ["a robot " * 12_000, "it walks", "\N{GRINNING FACE}" * 60_000, *map(str, range(MOST_INPUTS))]

    vectors = await embedder.embed(texts)

    batches = [request["input"] for request in model_server.embedding_requests]
    assert [text for batch in batches for text in batch] == texts
    assert len(batches) == 3
    assert all(len(batch) <= MOST_INPUTS for batch in batches)
    assert all(sum(len(text.encode()) for text in batch) <= MOST_BYTES for batch in batches)
    assert vectors == [unit(embedding(text, 2)) for text in texts]


async def test_the_order_is_that_of_the_index(embedder: Embedder, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(answer({"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}))

    assert await embedder.embed(["first", "second"]) == [[1, 0], [0, 1]]


@pytest.mark.parametrize("index", [0, None])
async def test_without_an_index_the_order_is_that_of_the_answer(
    embedder: Embedder, model_server: FakeOpenAI, index: int | None
) -> None:
    model_server.enqueue_embeddings(answer(*({"index": index, "embedding": vector} for vector in ([1, 0], [0, 1]))))

    assert await embedder.embed(["first", "second"]) == [[1, 0], [0, 1]]


async def test_plain_numbers_are_understood_though_not_asked_for(embedder: Embedder, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(answer({"index": 0, "embedding": [3, 4.0]}))

    assert await embedder.embed(["A robot."]) == [pytest.approx([0.6, 0.8])]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_the_encoding_is_asked_for_plain_numbers(
    embedder: Embedder, model_server: FakeOpenAI, status: int
) -> None:
    model_server.enqueue_embeddings(failure(status, "unknown field: encoding_format"))

    assert await embedder.embed(["A robot."]) == [unit(embedding("A robot."))]
    await embedder.embed(["It walks."])

    assert ["encoding_format" in request for request in model_server.embedding_requests] == [True, False, False]


async def test_a_server_that_refuses_many_texts_is_sent_fewer_from_then_on(
    embedder: Embedder, model_server: FakeOpenAI
) -> None:
    model_server.enqueue_embeddings(*[at_most(3)] * 20)
    texts = [f"robot {number}" for number in range(10)]

    assert await embedder.embed(texts) == [unit(embedding(text)) for text in texts]
    first = len(model_server.embedding_requests)
    assert await embedder.embed(texts) == [unit(embedding(text)) for text in texts]

    assert all(len(request["input"]) <= 3 for request in model_server.embedding_requests[first:])
    assert all("encoding_format" in request for request in model_server.embedding_requests[first:])


async def test_a_text_that_is_refused_by_itself_is_an_error(embedder: Embedder, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(*[failure(400, "too many tokens")] * 9)

    with pytest.raises(EmbeddingError, match="too many tokens") as caught:
        await embedder.embed(["A robot.", "It walks."])

    assert caught.value.kind == "400"
    assert len(model_server.embedding_requests) < 9


async def test_a_model_with_more_dimensions_is_asked_for_fewer(embedder: Embedder, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(embeddings(dimensions=3072), embeddings(dimensions=3072))

    [vector] = await embedder.embed(["A robot."])
    await embedder.embed(["It walks."])

    assert len(vector) == 1536
    assert [request.get("dimensions") for request in model_server.embedding_requests] == [None, 1536, 1536]


@pytest.mark.parametrize("model", ["text-embedding-3-large", "openai/text-embedding-3-large", "gemini-embedding-001"])
async def test_a_model_that_is_known_to_have_more_is_asked_for_fewer_at_once(
    make_embedder: MakeEmbedder, model_server: FakeOpenAI, model: str
) -> None:
    await make_embedder(openai_embedding_model=model).embed(["A robot."])

    assert [request["dimensions"] for request in model_server.embedding_requests] == [1536]


async def test_a_model_that_cannot_give_fewer_dimensions_is_an_error(
    embedder: Embedder, model_server: FakeOpenAI
) -> None:
    too_long = answer({"index": 0, "embedding": [1.0] * 3072})
    model_server.enqueue_embeddings(too_long, too_long)

    with pytest.raises(EmbeddingError, match="3072 dimensions"):
        await embedder.embed(["A robot."])


def test_shorter_vectors_are_stored_with_zeros_after_them() -> None:
    assert padded([0.6, 0.8]) == [0.6, 0.8, *[0.0] * 1534]


def answer(*data: dict[str, Any]) -> Reply:
    """Answer with these items."""
    return json_body({"object": "list", "data": list(data)})


def at_most(limit: int) -> Reply:
    """Answer as a server does that embeds so many texts at once."""

    async def reply(exchange: Exchange) -> None:
        is_too_much = len(exchange.body["input"]) > limit
        await (failure(422, f"at most {limit} inputs") if is_too_much else embeddings())(exchange)

    return reply


BAD_ANSWERS = {
    "an error in a body with status 200": json_body({"error": {"message": "model not loaded"}}),
    "no list": json_body({"data": {}}),
    "no items": json_body({"data": ["a"]}),
    "a number": json_body(1),
    "too few": json_body({"data": []}),
    "not JSON": raw_body(b"{", "application/json"),
    "a web page": html_page(),
    "an empty vector": answer({"index": 0, "embedding": []}),
    "nothing": answer({"index": 0}),
    "words": answer({"index": 0, "embedding": ["a"]}),
    "not base64": answer({"index": 0, "embedding": "???"}),
    "cut floats": answer({"index": 0, "embedding": base64.b64encode(b"12345").decode()}),
    "zeros": answer({"index": 0, "embedding": [0.0, 0.0]}),
    "not finite": answer({"index": 0, "embedding": base64.b64encode(struct.pack("<2f", math.nan, 1)).decode()}),
    "endless nesting": raw_body(b"[" * 100_000, "application/json"),
}


@pytest.mark.parametrize("reply", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_answer_without_embeddings_is_an_error(
    embedder: Embedder, model_server: FakeOpenAI, reply: Reply
) -> None:
    model_server.enqueue_embeddings(reply)

    with pytest.raises(EmbeddingError) as caught:
        await embedder.embed(["A robot."])

    assert caught.value.kind == "malformed"
    assert API_KEY not in str(caught.value)


async def test_vectors_of_different_dimensions_are_an_error(embedder: Embedder, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(answer(*({"embedding": [1.0] * size} for size in (2, 3))))

    with pytest.raises(EmbeddingError, match="dimensions"):
        await embedder.embed(["A robot.", "It walks."])


@pytest.mark.parametrize(
    ("status", "message"), [(401, "bad key"), (404, "no such model"), (429, "slow down"), (500, "no")]
)
async def test_a_failure_says_what_the_server_said(
    embedder: Embedder, model_server: FakeOpenAI, status: int, message: str
) -> None:
    model_server.enqueue_embeddings(failure(status, message))

    with pytest.raises(EmbeddingError, match=message) as caught:
        await embedder.embed(["A robot."])

    assert caught.value.kind == str(status)
    assert len(model_server.embedding_requests) == 1


async def test_a_transient_failure_is_retried(make_embedder: MakeEmbedder, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(failure(500, **{"retry-after-ms": "1"}))

    await make_embedder(openai_max_retries=1).embed(["A robot."])

    assert len(model_server.embedding_requests) == 2


async def test_an_unreachable_server_is_an_error(make_embedder: MakeEmbedder) -> None:
    with pytest.raises(EmbeddingError) as caught:
        await make_embedder(openai_base_url="http://127.0.0.1:1/v1").embed(["A robot."])

    assert caught.value.kind == "APIConnectionError"


def test_the_fakes_vectors_are_close_if_the_words_are_the_same() -> None:
    one, other, third = (embedding(text) for text in ("a robot walks", "the robot walks", json.dumps("x y")))

    assert math.sumprod(one, other) > math.sumprod(one, third)
