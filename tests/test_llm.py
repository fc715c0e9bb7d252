"""How the model is asked: what is tried again, what is left out, when it ends, and what it costs."""

import asyncio
import gzip
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from dirty_equals import IsPartialDict
from sqlalchemy import text

from tests.conftest import API_KEY, Serve, Service
from tests.events import all_events
from tests.fake_openai import (
    Exchange,
    FakeOpenAI,
    Reply,
    answer_in_kind,
    completion,
    cut,
    cut_stream,
    failure,
    html_page,
    json_body,
    raw_body,
    raw_stream,
    refusal,
    stream,
)
from tests.marks import on_one_database
from tests.test_completions import ANSWER, DONE, PIECES, STOP, chunk, event, whole
from tests.test_model_servers import BUSY, OUT_OF_ORDER, QUOTA, TOO_LONG, error_200

pytestmark = on_one_database


ZIPPED: dict[str, Any] = {"content-encoding": "gzip"}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.llm.FIRST_RETRY_WAIT_SECONDS", 0.0)
    monkeypatch.setattr("app.llm.USAGE_WAIT_SECONDS", 0.1)


def head(*lines: str, body: bytes = b"") -> Reply:
    """Answer with a response of these lines, and close the connection."""

    async def reply(exchange: Exchange) -> None:
        await exchange.write("\r\n".join([*lines, "", ""]).encode() + body)
        await exchange.close()

    return reply


async def ending(service: Service) -> Any:
    """Ask, and return the stream's last event."""
    return (await all_events(service))[-1]


TRANSIENT: dict[str, Reply] = {
    "500": failure(500),
    "502 from a gateway": raw_body(b"<html>Bad Gateway</html>", "text/html", 502),
    "408": failure(408),
    "429": failure(429),
    "502 with status 200": error_200(502),
    "an error without a code": error_200(None),
    "nothing": raw_body(b"", "application/json"),
    "a page": html_page(),
    "half a body": raw_body(whole(ANSWER)[:-3], "application/json"),
    "no choices": json_body({"choices": []}),
    "a blank answer": completion(" \n"),
    "reasoning alone": completion("<think>hm"),
    "an aborted answer": completion(None, "abort"),
    "a stream that ends": raw_stream(b": ping\n\n"),
    "a stream that ends after its role": raw_stream(chunk(role="assistant")),
    "a stream that is reset": stream(then=cut_stream),
    "an error as a stream's first event": raw_stream(event(error={"code": 503, "message": "no"})),
    "a connection that is reset": cut,
    "a status line that is none": head("HTTP/9 what"),
    "a header that is too long": head("HTTP/1.1 200 OK", f"x-long: {'x' * 9_000}", "content-length: 0"),
    "too many headers": head("HTTP/1.1 200 OK", *(f"x-{n}: 1" for n in range(200)), "content-length: 0"),
    "a header that is none": head("HTTP/1.1 200 OK", "no colon", "content-length: 0"),
    "a chunk that is none": head("HTTP/1.1 200 OK", "transfer-encoding: chunked", body=b"zz\r\n"),
    "a body that is not zipped": raw_body(b"no", "application/json", **ZIPPED),
}


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_what_may_pass_is_tried_again_while_nothing_was_shown(
    serve: Serve, model_server: FakeOpenAI, path: str
) -> None:
    service = await serve(OPENAI_MAX_RETRIES="1")

    for name, reply in TRANSIENT.items():
        model_server.requests.clear()
        model_server.enqueue(reply, completion(ANSWER))
        response = await service.client.post(path, json={"message": "Why?"})
        assert (response.status_code, ANSWER in response.text, len(model_server.requests)) == (200, True, 2), name

    assert "internal.error" not in service.output


async def test_what_may_pass_is_tried_again_as_often_as_is_set(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_MAX_RETRIES="3")
    model_server.enqueue(completion(""), failure(500), html_page(), cut)

    response = await service.chat()

    assert response.json()["error"]["code"] == "openai_error"
    statuses = [(record["status"], record.get("attempt")) for record in service.log("openai.call")]
    assert statuses == [("empty", None), (500, 2), ("malformed", 3), ("APIConnectionError", 4)]


@pytest.mark.parametrize(
    "reply",
    [failure(400), failure(422), refusal(), QUOTA, failure(401), failure(400, "no", "content_filter"), error_200(404)],
)
async def test_what_does_not_pass_is_asked_once(serve: Serve, model_server: FakeOpenAI, reply: Reply) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")
    model_server.enqueue(reply)

    assert (await service.chat()).status_code == 500
    assert len(model_server.requests) == 1


@pytest.mark.parametrize("end", [cut_stream, None])
async def test_once_a_piece_was_shown_nothing_is_tried_again(serve: Serve, model_server: FakeOpenAI, end: Any) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")
    model_server.enqueue(stream("Half an ", finish_reason=None, then=end))

    events = await all_events(service)

    assert [name for name, _ in events] == ["session", "delta", "error"]
    assert len(model_server.requests) == 1


def error(message: str, status: int = 400, **fields: Any) -> Reply:
    return json_body({"error": {"message": message, "type": "invalid_request_error", "code": None, **fields}}, status)


OVERFLOWS: dict[str, Callable[[int, int], Reply]] = {
    # In the words of each server, of a limit and a length.
    "OpenAI": lambda limit, length: error(
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in {length} tokens.",
        code="context_length_exceeded",
    ),
    "OpenAI, without numbers": lambda *_: error("Your input exceeds the context window of this model.", code="context_length_exceeded"),
    "vLLM": lambda limit, length: json_body(
        {"object": "error", "type": "BadRequestError", "code": 400, "message": f"This model's maximum context length is {limit} tokens. "
         f"However, you requested {length + 256} tokens ({length} in the messages, 256 in the completion)."}, 400,
    ),
    "vLLM, of the answer's length": lambda limit, length: error(f"max_tokens must be at least 1, got {limit - length}."),
    "llama.cpp": lambda limit, length: error(
        "the request exceeds the available context size, try increasing it", code=400, type="exceed_context_size_error",
        n_prompt_tokens=length, n_ctx=limit,
    ),
    "llama.cpp, in a stream": lambda limit, length: raw_stream(
        f'error: {{"code": 400, "message": "request ({length} tokens) exceeds the available context size ({limit} tokens)"}}\n\n'.encode()
    ),
    "Ollama": lambda *_: error("the input length exceeds the context length", type="api_error"),
    "LM Studio": lambda limit, length: json_body(
        {"error": f"Trying to keep the first {length} tokens when context the overflows. However, the model is loaded with context "
         f"length of only {limit} tokens, which is not enough."}, 400,
    ),
    "Groq": lambda *_: error("Please reduce the length of the messages or completion.", code="context_length_exceeded"),
    "Groq, tokens per minute": lambda limit, length: error(
        f"Request too large for model `m` in organization `org_1` service tier `on_demand` on tokens per minute (TPM): Limit {limit}, "
        f"Requested {length}, please reduce your message size and try again.", 413, type="tokens", code="rate_limit_exceeded",
    ),
    "OpenAI, tokens per minute": lambda limit, length: error(
        f"Request too large for m in organization org-1 on tokens per min (TPM): Limit {limit}, Requested {length}. The input or "
        "output tokens must be reduced in order to run successfully.", 429, type="tokens", code="rate_limit_exceeded",
    ),
    "Mistral": lambda limit, length: json_body(
        {"object": "error", "message": f"Prompt contains {length} tokens and 0 draft tokens, too large for model with {limit} maximum "
         "context length", "type": "invalid_request_invalid_args", "code": "3051"}, 400,
    ),
    "Gemini": lambda limit, length: json_body(
        [{"error": {"code": 400, "message": f"The input token count ({length}) exceeds the maximum number of tokens allowed ({limit}).",
                    "status": "INVALID_ARGUMENT"}}], 400,
    ),
    "OpenRouter": lambda limit, length: json_body(
        {"error": {"message": f"This endpoint's maximum context length is {limit} tokens. However, you requested about {length} tokens "
                   f"({length} of text input). Please reduce the length of either one.", "code": 400}}
    ),
    "Anthropic": lambda limit, length: error(f"prompt is too long: {length} tokens > {limit} maximum"),
    "Bedrock": lambda *_: error("Input is too long for requested model."),
    "xAI": lambda limit, length: error(f"This model's maximum prompt length is {limit} but the request contains {length} tokens."),
    "TGI": lambda limit, length: json_body(
        {"error": f"Input validation error: `inputs` must have less than {limit} tokens. Given: {length}", "error_type": "validation"}, 422
    ),
    "SGLang": lambda limit, length: error(
        f"The input ({length} tokens) is longer than the model's context length ({limit} tokens).", type="BadRequestError", code=400
    ),
    "LiteLLM": lambda limit, length: error(
        f"litellm.ContextWindowExceededError: litellm.BadRequestError: maximum context length is {limit} tokens, not {length}", code="400"
    ),
    "GitHub": lambda limit, _: error(f"Request body too large for m. Max size: {limit} tokens.", 413, code="tokens_limit_reached"),
    "nginx": lambda *_: raw_body(b"<html><title>413 Request Entity Too Large</title></html>", "text/html", 413),
}  # fmt: skip


def small_context(chars: int, overflow: Callable[[int, int], Reply]) -> Reply:
    """Refuse prompts that are longer, of which each character counts as a token."""

    async def reply(exchange: Exchange) -> None:
        length = sum(len(message["content"]) for message in exchange.body["messages"])
        await (overflow(chars, length) if length > chars else answer_in_kind)(exchange)

    return reply


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_conversation_that_outgrows_the_model_goes_on_without_its_oldest_turns(
    service: Service, model_server: FakeOpenAI, path: str
) -> None:
    session_id = (await service.chat("Question 0?")).json()["session_id"]
    for number in range(1, 5):
        await service.chat(f"Question {number}? {'x' * 400}", session_id=session_id)

    for number, (name, overflow) in enumerate(OVERFLOWS.items(), 5):
        model_server.requests.clear()
        model_server.enqueue(*[small_context(2_500, overflow)] * 3)
        body = {"message": f"Question {number}? {'x' * 400}", "session_id": session_id}
        response = await service.client.post(path, json=body)
        assert (response.status_code, "event: error" in response.text) == (200, False), name
        assert 1 < len(model_server.requests) <= 3, name
        _, *turns = model_server.prompt
        assert [turn["role"] for turn in turns] == [*["user", "assistant"] * (len(turns) // 2), "user"], name
        asked = [turn["content"].partition("?")[0] for turn in turns[::2]]
        assert asked == [f"Question {n}" for n in range(number - len(turns) // 2, number + 1)], name
        model_server.forget_replies()


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize("overflow", ["OpenAI", "Ollama", "OpenAI, tokens per minute", "nginx"])
async def test_a_question_that_never_fits_is_told_once(
    serve: Serve, model_server: FakeOpenAI, path: str, overflow: str
) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")
    first = await service.chat()
    model_server.enqueue(*[OVERFLOWS[overflow](2_000, 9_000)] * 3)

    response = await service.client.post(
        path, json={"message": "Long?", "session_id": first.json()["session_id"], "selected_text": None}
    )

    assert response.status_code == 400
    assert response.json()["error"] == IsPartialDict(code="too_long_for_model", message=TOO_LONG, retryable=False)
    assert len(model_server.prompt) == 2
    assert len(model_server.requests) <= 4


async def test_a_limit_that_many_requests_exceed_together_passes(service: Service, model_server: FakeOpenAI) -> None:
    said = "Rate limit reached for m on tokens per min (TPM): Limit 6000, Used 5900, Requested 500. Please try again in 4s."
    model_server.enqueue(error(said, 429, code="rate_limit_exceeded"))

    assert (await service.chat()).json()["error"] == IsPartialDict(code="openai_rate_limited", message=BUSY)


async def test_a_context_that_is_full_in_the_middle_cuts_the_answer_off(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(raw_stream(PIECES, event(error={"code": 500, "message": "Context size has been exceeded."})))

    assert await ending(service) == ("done", IsPartialDict(response=ANSWER, truncated=True))


async def speak_slowly(exchange: Exchange) -> None:
    await exchange.start_stream()
    for number in range(8):
        await exchange.write(chunk(f"{number}."))
        await asyncio.sleep(0.25)  # The pace of the model, of which the deadline must be independent.
    await exchange.write(STOP + DONE)
    await exchange.close()


async def test_an_answer_may_stream_for_longer_than_the_model_may_be_silent(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="1.5")
    model_server.enqueue(speak_slowly)

    assert await ending(service) == ("done", IsPartialDict(response="0.1.2.3.4.5.6.7."))


async def test_a_model_that_falls_silent_is_given_up(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="0.5", OPENAI_MAX_RETRIES="2")

    async def ping_for_ever(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.write(PIECES)
        while True:
            await exchange.write(b": ping\n\n")
            await asyncio.sleep(0.05)

    model_server.enqueue(ping_for_ever)

    assert await ending(service) == ("error", {"error": IsPartialDict(code="openai_timeout")})
    assert len(model_server.requests) == 1


async def test_an_answer_has_an_end_however_steadily_it_streams(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_TOTAL_SECONDS="1")

    async def speak_for_ever(exchange: Exchange) -> None:
        await exchange.start_stream()
        while True:
            await exchange.write(chunk("a"))
            await asyncio.sleep(0.05)

    model_server.enqueue(speak_for_ever)

    assert await ending(service) == ("error", {"error": IsPartialDict(code="openai_timeout")})


async def test_a_turn_has_an_end_although_its_database_is_held_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.config._TURN_MARGIN_SECONDS", 0.5)
    monkeypatch.setattr("app.idempotency.GIVING_UP_SECONDS", 0.1)
    monkeypatch.setattr("app.database.COMMAND_TIMEOUT_SECONDS", 600)
    service = await serve(OPENAI_TIMEOUT_SECONDS="1")

    async with service.tables.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE"))
        response = await service.chat()

    assert response.json()["error"]["code"] == "database_error"


async def test_the_readers_words_in_an_error_do_not_tell_what_went_wrong(
    service: Service, model_server: FakeOpenAI
) -> None:
    question = "Does the content policy say that the model does not exist, or that its context window is too small?"
    model_server.enqueue(failure(400, f"Malformed prompt: {question}"))

    response = await service.chat(question)

    assert (response.status_code, response.json()["error"]["code"]) == (500, "openai_error")
    assert service.log("openai.misconfigured") == []


async def test_an_error_without_an_end_is_read_as_far_as_it_tells_what_it_is(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.provider._MOST_ERROR_BYTES", 100)
    model_server.enqueue(raw_body(b"x" * 10_000, "text/plain", 429))

    assert (await service.chat()).json()["error"]["code"] == "openai_rate_limited"


@pytest.mark.parametrize(
    "count", ["2147483648", "1" + "0" * 30, "9" * 5_000, "1e400", "-1", "7.5", "true", '"7"', "null"]
)
async def test_a_number_of_tokens_that_cannot_be_believed_is_none(
    serve: Serve, model_server: FakeOpenAI, count: str
) -> None:
    service = await serve(DAILY_TOKEN_BUDGET="100000")
    counted = whole(ANSWER)[:-1] + b', "usage": {"prompt_tokens": #, "completion_tokens": #}}'.replace(
        b"#", count.encode()
    )
    streamed = b"data: " + counted.replace(b'"message"', b'"delta"') + b"\n\n"
    model_server.enqueue(raw_body(counted, "application/json"), raw_stream(streamed, DONE))

    assert (await service.chat()).json()["response"] == ANSWER
    assert await ending(service) == ("done", IsPartialDict(response=ANSWER))
    assert (await service.chat()).status_code == 200
    assert {message.prompt_tokens for message in (await service.tables.messages())[:4]} == {None}


async def test_every_attempt_that_was_paid_counts(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(DAILY_TOKEN_BUDGET="60", OPENAI_MAX_RETRIES="1")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    model_server.enqueue(completion(" "), completion(""), completion(ANSWER))

    failed = await service.client.post("/chat", json={"message": "Why?"}, headers=key)
    answered = await service.client.post("/chat", json={"message": "Why?"}, headers=key)
    refused = await service.chat("Too much?")

    assert (failed.json()["error"]["code"], answered.json()["response"]) == ("openai_error", ANSWER)
    question, reply = (await service.tables.messages())[:2]
    assert (question.prompt_tokens, question.completion_tokens) == (22, 14)
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    assert refused.status_code == 200
    assert (await service.chat("More?")).json()["error"]["code"] == "budget_exhausted"


async def test_what_an_answer_took_is_recorded(service: Service, model_server: FakeOpenAI) -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    said = {**json.loads(whole(ANSWER)), "model": "gpt-6-luna-2026-09-01", "service_tier": "flex", "usage": usage}
    model_server.enqueue(json_body(said))

    await service.chat()

    reply = (await service.tables.messages())[1]
    assert (reply.model, reply.service_tier, reply.cached_tokens, reply.reasoning_tokens) == (
        *("gpt-6-luna-2026-09-01", "flex"),
        *(16, 5),
    )
    assert service.log("openai.call") == [
        IsPartialDict(
            model="gpt-6-luna",
            response_model="gpt-6-luna-2026-09-01",
            service_tier="flex",
            cached_tokens=16,
            reasoning_tokens=5,
        )
    ]


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "model_length"])
async def test_a_reader_learns_that_an_answer_was_cut_off(
    service: Service, model_server: FakeOpenAI, reason: str
) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    model_server.enqueue(completion(ANSWER, reason), raw_stream(PIECES, chunk(finish_reason=reason), DONE))

    asked = [await service.client.post("/chat", json={"message": "Why?"}, headers=key) for _ in range(2)]
    streamed = await ending(service)
    session_id = asked[0].json()["session_id"]
    items = (await service.client.get(f"/chat/{session_id}/messages")).json()["data"]
    whole_one = await service.chat("And then?", session_id=session_id)

    assert [response.json() for response in asked] == [IsPartialDict(response=ANSWER, truncated=True)] * 2
    assert streamed == ("done", IsPartialDict(response=ANSWER, truncated=True))
    assert [item.get("truncated") for item in items] == [None, True]
    assert set(whole_one.json()) == {"response", "session_id", "timestamp"}


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_an_answer_that_is_too_long_is_cut_off(serve: Serve, model_server: FakeOpenAI, path: str) -> None:
    service = await serve(MAX_ANSWER_CHARS="4")
    model_server.enqueue(completion(ANSWER) if path == "/chat" else raw_stream(PIECES, end="open"))

    response = await service.client.post(path, json={"message": "Why?"})

    assert response.status_code == 200
    assert '"truncated":true' in response.text
    assert await service.tables.replies() == [ANSWER[:4]]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_small_body_that_holds_a_large_one_is_given_up(
    service: Service, model_server: FakeOpenAI, path: str
) -> None:
    bomb = gzip.compress(b'{"choices": [{"message": {"content": "' + b"a" * 40_000_000)
    model_server.enqueue(raw_body(bomb, "application/json", **ZIPPED))

    assert (await service.client.post(path, json={"message": "Why?"})).json()["error"]["code"] == "openai_error"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_prompt_follows_no_redirect(serve: Serve, model_server: FakeOpenAI, status: int) -> None:
    async with FakeOpenAI().serve() as other:
        service = await serve(OPENAI_MAX_RETRIES="2")
        model_server.enqueue(raw_body(b"", "text/html", status, location=f"{other.url}/chat/completions"))

        response = await service.chat()

        assert response.json()["error"] == IsPartialDict(message=OUT_OF_ORDER, retryable=False)
        assert other.requests == []
    assert service.log("openai.misconfigured") == [IsPartialDict(setting="OPENAI_BASE_URL", status=status)]


WRONG_SETTINGS = {
    "an unknown address": (json_body({"detail": "Not Found"}, 404), "OPENAI_BASE_URL"),
    "an address that takes no questions": (raw_body(b"", "text/plain", 405), "OPENAI_BASE_URL"),
    "an unknown model": (failure(404, "The model `gpt-9.1` does not exist or you do not have access to it.", "model_not_found"), "OPENAI_MODEL"),
    "an unknown model (Ollama)": (error('model "m:1.5" not found, try pulling it first', 404), "OPENAI_MODEL"),
    "an unknown model (DeepSeek)": (error("Model Not Exist"), "OPENAI_MODEL"),
    "an unknown model (LiteLLM)": (error("/chat/completions: Invalid model name passed in model=m. Call `/v1/models`"), "OPENAI_MODEL"),
    "an unknown model (Mistral)": (json_body({"object": "error", "message": "Invalid model: m", "code": "1500"}, 400), "OPENAI_MODEL"),
    "an unknown model (Gemini)": (
        json_body([{"error": {"code": 404, "message": "models/gemini-9.5-x is not found for API version v1beta"}}], 404), "OPENAI_MODEL"
    ),
    "an unknown model (OpenRouter)": (error("m/x is not a valid model ID", code=400), "OPENAI_MODEL"),
    "no chat model": (error("This is not a chat model and thus not supported in this endpoint.", 404, param="model"), "OPENAI_MODEL"),
    "an organization to be verified": (
        error("Your organization must be verified to stream this. Please go to: https://x", code="unsupported_value"), "OPENAI_EXTRA_BODY"
    ),
    "a parameter": (
        error("Unsupported parameter: 'top_k' is not supported with this model.", param="top_k", code="unsupported_parameter"),
        "OPENAI_EXTRA_BODY",
    ),
    "a parameter (Groq)": (error("property 'top_k' is unsupported"), "OPENAI_EXTRA_BODY"),
    "an effort": (error("Unrecognized request argument supplied: reasoning_effort"), "OPENAI_REASONING_EFFORT"),
    "thinking (Ollama)": (error('"m" does not support thinking', type="api_error"), "OPENAI_REASONING_EFFORT"),
    "a key": (failure(401, "Incorrect API key provided"), "OPENAI_API_KEY"),
    "a proxy": (raw_body(b"", "text/html", 407), "HTTPS_PROXY"),
}  # fmt: skip


@pytest.mark.parametrize("question", ["Why?", "model", "What is the model of a robot that does not exist?"])
async def test_the_operator_is_told_which_setting_is_wrong(
    serve: Serve, model_server: FakeOpenAI, question: str
) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")

    for name, (reply, setting) in WRONG_SETTINGS.items():
        model_server.requests.clear()
        model_server.enqueue(reply)
        response = await service.chat(question)
        assert response.json()["error"] == IsPartialDict(message=OUT_OF_ORDER, retryable=False), name
        assert service.log("openai.misconfigured")[-1]["setting"] == setting, name
        assert len(model_server.requests) == 1, name

    assert len(service.log("openai.misconfigured")) == len(WRONG_SETTINGS)
    assert API_KEY not in service.output


async def test_reasoning_that_only_its_end_gives_away_is_gone_from_the_answer(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(raw_stream(chunk("They ask.\n"), chunk("</think>\n\nA ma"), chunk("chine."), STOP, DONE))

    events = await all_events(service)
    await service.chat("And then?", session_id=events[0][1]["session_id"])

    assert events[-1][1]["response"] == ANSWER
    assert [message["content"] for message in model_server.prompt[1:]] == ["Why?", ANSWER, "And then?"]


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_tag_of_the_prompt_is_no_part_of_the_answer(
    service: Service, model_server: FakeOpenAI, path: str
) -> None:
    async def repeat_tag(exchange: Exchange) -> None:
        tag = exchange.body["messages"][-1]["content"].partition("\n")[0]
        assert tag.startswith("<excerpt-")
        await (stream(tag[:9], tag[9:], "\nA ma", "chine.") if path != "/chat" else completion(f"{tag}\n{ANSWER}"))(
            exchange
        )

    model_server.enqueue(repeat_tag)

    await service.client.post(path, json={"message": "Why?", "selected_text": "It walks."})

    assert await service.tables.replies() == [ANSWER]
