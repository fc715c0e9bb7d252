"""What compatible model servers do, on the wire: `/chat` and `/chat/stream` ask them, and tell what came of it."""

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dirty_equals import IsPartialDict

from app.retrieval import Passage, Query
from tests.conftest import PlugIn, Serve, Service
from tests.events import all_events
from tests.fake_openai import (
    Exchange,
    FakeOpenAI,
    Reply,
    answer_in_kind,
    completion,
    failure,
    held,
    json_body,
    raw_body,
    raw_stream,
    stream,
)
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS
from tests.test_completions import ANSWER, DONE, PIECES, STOP, chunk, event, whole

pytestmark = on_one_database

TRY_AGAIN = "The assistant could not answer. Please try again."
REFUSED = "The assistant will not answer this question. Asking it again does not help; please ask in another way."
OUT_OF_ORDER = "The assistant is out of order. Asking again does not help until its operator has repaired it."
TOO_LONG = "This question is too long for the assistant. Please shorten it, or select less text."
BUSY = "The assistant is busy. Please try again in a moment."


async def contents(service: Service) -> list[str]:
    return [message.content for message in await service.tables.messages()]


@pytest.mark.parametrize("end", ["close", "open", "unfinished chunk"])
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([PIECES, STOP, DONE], id="as usual"),
        pytest.param([PIECES, STOP], id="without [DONE]"),
        pytest.param([PIECES, DONE], id="without a finish reason"),
        pytest.param([b"retry: 3000\n\n", PIECES, b": ping\n\n", STOP, b"event: ping\n\n"], id="with keep-alives"),
    ],
)
async def test_a_streamed_answer_is_whole_once_its_end_is_told(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, parts: Sequence[bytes], end: Any
) -> None:
    monkeypatch.setattr("app.llm.USAGE_WAIT_SECONDS", 0.1)
    model_server.enqueue(raw_stream(*parts, end=end))

    events = await all_events(service)

    assert [name for name, _ in events] == ["session", "delta", "delta", "done"]
    assert events[-1][1]["response"] == ANSWER
    assert await contents(service) == ["Why?", ANSWER]
    assert service.log("openai.call") == [IsPartialDict(status="ok")]


async def test_servers_that_answer_in_the_other_form_are_understood(service: Service, model_server: FakeOpenAI) -> None:
    model_server.enqueue(
        raw_body(PIECES + STOP + DONE, "text/event-stream"), raw_body(whole(ANSWER), "application/json")
    )

    plain = await service.chat()
    events = await all_events(service)

    assert plain.json()["response"] == ANSWER
    assert [name for name, _ in events] == ["session", "delta", "done"]
    assert events[-1][1]["response"] == ANSWER


async def test_a_compressed_answer_is_read(service: Service, model_server: FakeOpenAI) -> None:
    zipped: dict[str, Any] = {"content-encoding": "gzip"}
    model_server.enqueue(
        raw_body(gzip.compress(whole(ANSWER)), "application/json", **zipped),
        raw_body(gzip.compress(PIECES + STOP), "text/event-stream", **zipped),
    )

    assert (await service.chat()).json()["response"] == ANSWER
    assert (await all_events(service))[-1][1]["response"] == ANSWER


async def test_reasoning_is_neither_shown_nor_stored_nor_sent(service: Service, model_server: FakeOpenAI) -> None:
    thoughts = [chunk(piece) for piece in ("<th", "ink>hm", "</thi", "nk>\n\nA ma", "chine.")]
    model_server.enqueue(raw_stream(*thoughts, STOP, DONE))

    events = await all_events(service)
    await service.chat("And then?", session_id=events[0][1]["session_id"])

    assert "".join(data["text"] for name, data in events if name == "delta") == ANSWER
    assert [m["content"] for m in model_server.prompt[1:]] == ["Why?", ANSWER, "And then?"]
    assert "hm" not in str(await contents(service))


@pytest.mark.parametrize("end", ["open", "unfinished chunk"])
async def test_an_error_is_told_soon_although_its_stream_has_no_end(
    serve: Serve, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, end: Any
) -> None:
    monkeypatch.setattr("app.llm.USAGE_WAIT_SECONDS", 0.1)
    service = await serve(OPENAI_TIMEOUT_SECONDS="300")
    model_server.enqueue(raw_stream(event(error={"message": "free-models-per-day", "code": 429}), end=end))

    async with asyncio.timeout(PATIENCE_SECONDS):  # Long before the deadline.
        response = await service.client.post("/chat/stream", json={"message": "Why?"})

    assert response.json()["error"]["code"] == "openai_rate_limited"
    assert service.log("openai.call") == [IsPartialDict(status="error", provider_message="free-models-per-day")]


def error_200(code: Any, message: str = "no") -> Reply:
    return json_body({"error": {"message": message, "code": code}})


QUOTA = failure(429, "You exceeded your current quota.", "insufficient_quota")
FAILURES: dict[str, tuple[Reply, str, str, dict[str, Any]]] = {
    # what the server sends: code, message and the call's record
    "aborted": (completion(ANSWER, "abort"), "openai_error", TRY_AGAIN, {"status": "aborted", "finish_reason": "abort"}),
    "filtered after some text": (
        completion(ANSWER, "SAFETY"), "openai_error", TRY_AGAIN, {"status": "content_filter", "finish_reason": "SAFETY"},
    ),
    "filtered": (completion(None, "content_filter"), "openai_refused", REFUSED, {"status": "content_filter"}),
    "refused": (completion(None, refusal="No."), "openai_refused", REFUSED, {"status": "refusal"}),
    "filtered by Azure": (
        failure(400, "The response was filtered", "content_filter"), "openai_refused", REFUSED,
        {"status": 400, "provider_code": "content_filter", "provider_message": "The response was filtered"},
    ),
    "tool calls": (completion(None, "tool_calls", tool_calls=[{}]), "openai_error", TRY_AGAIN, {"status": "tool_calls"}),
    "empty": (completion(""), "openai_error", TRY_AGAIN, {"status": "empty"}),
    "busy": (failure(429, "slow down"), "openai_rate_limited", BUSY, {"status": 429, "provider_message": "slow down"}),
    "busy with status 200": (
        error_200(429, "free-models-per-day"), "openai_rate_limited", BUSY,
        {"status": "error", "provider_code": "429", "provider_message": "free-models-per-day"},
    ),
    "busy, and the key is named": (
        failure(429, "Rate limit exceeded for API key 1"), "openai_rate_limited", BUSY, {"status": 429},
    ),
    "busy in Gemini's words": (
        json_body([{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}], 429),
        "openai_rate_limited", BUSY, {"status": 429, "provider_message": "Quota"},
    ),
    "quota": (QUOTA, "openai_error", OUT_OF_ORDER, {"status": 429, "provider_code": "insufficient_quota"}),
    "key in Gemini's words": (
        json_body([{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], 400),
        "openai_error", OUT_OF_ORDER, {"status": 400, "provider_message": "API key not valid."},
    ),
    "model in FastAPI's words": (
        json_body({"detail": "Model x is unknown"}, 404), "openai_error", OUT_OF_ORDER,
        {"status": 404, "provider_message": "Model x is unknown"},
    ),
    "a gateway's page": (
        raw_body(b"<html>502 Bad Gateway</html>", "text/html", 502), "openai_error", TRY_AGAIN,
        {"status": 502, "provider_message": "<html>502 Bad Gateway</html>"},
    ),
    "a page with status 200": (
        raw_body(b"<html>Welcome</html>", "text/html"), "openai_error", TRY_AGAIN,
        {"status": "malformed", "provider_message": "<html>Welcome</html>"},
    ),
    "aborted with its reason beside the filter's (Gemini)": (
        completion(None, "content_filter: PROHIBITED_CONTENT"), "openai_refused", REFUSED,
        {"status": "content_filter", "finish_reason": "content_filter: PROHIBITED_CONTENT"},
    ),
    "filtered by Azure, in the HTTP body": (
        json_body({"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                             "management policy.", "type": None, "param": "prompt", "code": "content_filter", "status": 400,
                             "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, 400),
        "openai_refused", REFUSED, {"status": 400, "provider_code": "content_filter"},
    ),
    "an unknown deployment (Azure)": (
        json_body({"error": {"code": "DeploymentNotFound", "message": "The deployment does not exist."}}, 404),
        "openai_error", OUT_OF_ORDER, {"status": 404, "provider_code": "DeploymentNotFound"},
    ),
    "a wrong key (Azure)": (
        json_body({"statusCode": 401, "message": "Unauthorized. Access token is missing."}, 401),
        "openai_error", OUT_OF_ORDER, {"status": 401, "provider_message": "Unauthorized. Access token is missing."},
    ),
    "moderation (OpenRouter)": (
        json_body({"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}}, 403),
        "openai_refused", REFUSED, {"status": 403, "provider_message": "Your input was flagged"},
    ),
    "a provider behind a router (OpenRouter)": (
        json_body({"error": {"code": 429, "message": "Provider returned error",
                             "metadata": {"raw": "m is rate-limited upstream", "provider_name": "x"}}}),
        "openai_rate_limited", BUSY,
        {"status": "error", "provider_code": "429", "provider_message": "Provider returned error: m is rate-limited upstream"},
    ),
    "no credits (OpenRouter)": (
        json_body({"error": {"code": 402, "message": "Insufficient credits"}}), "openai_error", OUT_OF_ORDER,
        {"status": "error", "provider_code": "402"},
    ),
    "no balance (DeepSeek)": (
        json_body({"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}}, 402),
        "openai_error", OUT_OF_ORDER, {"status": 402, "provider_message": "Insufficient Balance"},
    ),
    "a risk (DeepSeek)": (
        json_body({"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}, 400),
        "openai_refused", REFUSED, {"status": 400, "provider_code": "invalid_request_error"},
    ),
    "inappropriate (DashScope)": (
        json_body({"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}, 400),
        "openai_refused", REFUSED, {"status": 400, "provider_code": "DataInspectionFailed"},
    ),
    "tokens per minute (Groq)": (
        json_body({"error": {"message": "Rate limit reached", "type": "tokens", "code": "rate_limit_exceeded"}}, 429),
        "openai_rate_limited", BUSY, {"status": 429, "provider_code": "rate_limit_exceeded"},
    ),
    "overloaded (Anthropic)": (
        json_body({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529),
        "openai_rate_limited", BUSY, {"status": 529, "provider_code": "overloaded_error"},
    ),
    "the filter itself is down": (
        failure(503, "The moderation service is not available"), "openai_error", TRY_AGAIN, {"status": 503},
    ),
    "a field too many (Mistral)": (
        json_body({"object": "error", "message": {"detail": [{"type": "extra_forbidden", "msg": "no"}]}, "code": None}, 422),
        "openai_error", OUT_OF_ORDER, {"status": 422},
    ),
    "a model that is being loaded (Hugging Face)": (
        json_body({"error": "Model m is currently loading", "estimated_time": 20.0}, 503), "openai_error", TRY_AGAIN,
        {"status": 503, "provider_message": "Model m is currently loading"},
    ),
    "an unknown model (Ollama)": (
        json_body({"error": {"message": 'model "m" not found, try pulling it first', "type": "api_error", "code": None}}, 404),
        "openai_error", OUT_OF_ORDER, {"status": 404, "provider_code": "api_error"},
    ),
    "a model that is not loaded (LM Studio)": (
        json_body({"error": "No models loaded."}), "openai_error", TRY_AGAIN,
        {"status": "error", "provider_message": "No models loaded."},
    ),
    "a code that is text (LiteLLM)": (
        json_body({"error": {"message": "litellm.RateLimitError: no", "type": "None", "param": "None", "code": "429"}}),
        "openai_rate_limited", BUSY, {"status": "error", "provider_code": "429"},
    ),
    "a token that is wrong (Cloudflare)": (
        json_body({"success": False, "errors": [{"code": 10000, "message": "Authentication error"}], "result": None}, 401),
        "openai_error", OUT_OF_ORDER, {"status": 401, "provider_code": "10000"},
    ),
    "a spent quota under another type (Moonshot)": (
        json_body({"error": {"type": "exceeded_current_quota_error", "message": "no balance"}}, 429),
        "openai_error", OUT_OF_ORDER, {"status": 429, "provider_code": "exceeded_current_quota_error"},
    ),
    "a spent quota beside a number": (
        json_body({"error": {"code": 429, "type": "insufficient_quota", "message": "no"}}, 429),
        "openai_error", OUT_OF_ORDER, {"status": 429, "provider_code": "429"},
    ),
    "a context that is too long, in a stream (llama.cpp)": (
        raw_stream(b'error: {"code": 400, "message": "context size", "type": "invalid_request_error"}\n\n', DONE),
        "too_long_for_model", TOO_LONG, {"status": "error", "provider_code": "400", "provider_message": "context size"},
    ),
    "busy as the first event of a stream": (
        raw_stream(b'data: {"error": {"message": "free-models-per-day", "code": 429}}\n\n'), "openai_rate_limited", BUSY,
        {"status": "error", "provider_code": "429", "provider_message": "free-models-per-day"},
    ),
    "a key in a stream (DashScope)": (
        raw_stream(b'data: {"code": "InvalidApiKey", "message": "Invalid API-key provided."}\n\n'),
        "openai_error", OUT_OF_ORDER, {"status": "error", "provider_message": "Invalid API-key provided."},
    ),
    "broken behind a router, in the middle (OpenRouter)": (
        raw_stream(PIECES, event(error={"code": 502, "message": "Bad"}, choices=[{"delta": {}, "finish_reason": "error"}])),
        "openai_error", TRY_AGAIN, {"status": "error", "provider_code": "502", "provider_message": "Bad"},
    ),
    "text in an error event (SGLang)": (
        raw_stream(PIECES, b"event: error\ndata: out of memory\n\n"), "openai_error", TRY_AGAIN,
        {"status": "error", "provider_message": "out of memory"},
    ),
    "a stream that is cut": (raw_stream(PIECES), "openai_error", TRY_AGAIN, {"status": "incomplete"}),
    "a stream of nothing": (raw_stream(b": ping\n\n"), "openai_error", TRY_AGAIN, {"status": "malformed"}),
    "an error of vLLM": (
        json_body({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}), "openai_error", TRY_AGAIN,
        {"status": "error", "provider_code": "400", "provider_message": "no"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_failure_is_told_in_words_that_fit_and_its_cause_is_in_the_log(
    service: Service, model_server: FakeOpenAI, path: str, subtests: pytest.Subtests
) -> None:
    for failing, (reply, code, message, record) in FAILURES.items():
        with subtests.test(failing):
            model_server.forget_replies()
            # A server that refuses a stream's options is asked once more without them.
            model_server.enqueue(reply, reply)

            response = await service.client.post(path, json={"message": "Why?"})

            error = response.json()["error"] if path == "/chat" or response.status_code != 200 else None
            if error is None:  # Some text had been streamed.
                *_, last = response.text.removesuffix("\n\n").split("\n\n")
                error = json.loads(last.removeprefix("event: error\ndata: "))["error"]
            assert (error["code"], error["message"]) == (code, message)
            request = {"request_id": response.headers["X-Request-ID"]}
            assert [each for each in service.log("openai.call") if request.items() <= each.items()] == [
                IsPartialDict(record)
            ]
            assert service.log("openai.error")[-1] == IsPartialDict(request)
    assert await contents(service) == ["Why?"] * len(FAILURES)


@pytest.mark.parametrize(
    "reason", ["error", "SAFETY", "RECITATION", "abort", "insufficient_system_resource", "content_filter"]
)
async def test_half_a_streamed_answer_is_a_failure(service: Service, model_server: FakeOpenAI, reason: str) -> None:
    model_server.enqueue(raw_stream(PIECES, chunk(finish_reason=reason), DONE))

    events = await all_events(service)

    assert (events[-1][0], events[-1][1]["error"]["code"]) == ("error", "openai_error")
    assert await contents(service) == ["Why?"]


async def test_an_answer_that_has_all_its_tokens_is_kept_and_says_so_in_the_log(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(completion(ANSWER, "length"))

    assert (await service.chat()).json()["response"] == ANSWER
    assert service.log("openai.call") == [IsPartialDict(status="ok", finish_reason="length")]


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_what_never_heals_is_not_retried(serve: Serve, model_server: FakeOpenAI, path: str) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")
    model_server.enqueue(QUOTA)

    response = await service.client.post(path, json={"message": "Why?"})

    assert response.json()["error"]["message"] == OUT_OF_ORDER
    assert len(model_server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "waits", "told"),
    [
        ({"retry-after-ms": "1", "retry-after": "60"}, True, None),
        ({"retry-after-ms": "60000"}, False, "60"),
        ({"retry-after-ms": "60001", "retry-after": "61"}, False, "61"),
    ],
)
async def test_milliseconds_say_more_exactly_how_long_to_wait(
    serve: Serve, model_server: FakeOpenAI, headers: dict[str, str], told: str | None, *, waits: bool
) -> None:
    service = await serve(OPENAI_MAX_RETRIES="1")
    model_server.enqueue(failure(429, **headers))

    response = await service.chat()

    assert response.status_code == (200 if waits else 500)
    assert response.headers.get("Retry-After") == told


async def test_a_piece_that_calls_itself_the_last_is_not_believed_while_others_follow(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.llm.USAGE_WAIT_SECONDS", 2.0)

    async def speak_slowly(exchange: Exchange) -> None:
        await exchange.start_stream()
        for number in range(8):
            await exchange.write(chunk(f"{number}.", "stop"))
            await asyncio.sleep(0.4)  # The pace of the model, which the wait must outlast.
        await exchange.write(DONE)
        await exchange.close()

    model_server.enqueue(speak_slowly)

    assert (await all_events(service))[-1][1]["response"] == "0.1.2.3.4.5.6.7."


async def test_an_answer_is_not_lost_to_a_deadline_that_passes_after_its_end(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="2")
    model_server.enqueue(raw_stream(PIECES, STOP, end="open"))

    assert (await all_events(service))[-1][1]["response"] == ANSWER


async def test_comments_after_the_end_do_not_hold_the_answer_back(
    serve: Serve, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.llm.USAGE_WAIT_SECONDS", 0.1)
    service = await serve(OPENAI_TIMEOUT_SECONDS="300")

    async def ping_for_ever(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.write(PIECES + STOP)
        while True:
            await exchange.write(b": ping\n\n")
            await asyncio.sleep(0.01)

    model_server.enqueue(ping_for_ever)

    async with asyncio.timeout(PATIENCE_SECONDS):  # Long before the deadline.
        assert (await all_events(service))[-1][1]["response"] == ANSWER


async def test_a_whole_answer_to_a_stream_counts_although_its_body_breaks_off(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(
        raw_stream(whole(ANSWER), end="unfinished chunk"), raw_stream(whole(ANSWER)[:-1], end="unfinished chunk")
    )

    kept = await all_events(service)
    broken = await service.client.post("/chat/stream", json={"message": "Why?"})

    assert kept[-1][1]["response"] == ANSWER
    assert broken.json()["error"]["code"] == "openai_error"


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (
            {"include_usage": True, "continuous_usage_stats": True},
            [{"include_usage": True, "continuous_usage_stats": True}],
        ),
        (None, []),
    ],
)
async def test_the_operators_own_options_are_sent_with_streams_alone(
    serve: Serve, model_server: FakeOpenAI, options: Any, sent: list[Any]
) -> None:
    service = await serve(OPENAI_EXTRA_BODY=json.dumps({"stream_options": options}))

    await service.chat()
    await all_events(service)

    assert [body["stream_options"] for body in model_server.requests if "stream_options" in body] == sent
    assert "stream_options" not in model_server.requests[0]


async def test_behind_a_router_another_server_may_refuse_the_options_later(
    service: Service, model_server: FakeOpenAI
) -> None:
    refusal = json_body({"error": {"message": "unknown field: stream_options"}}, 400)
    model_server.enqueue(answer_in_kind, refusal, answer_in_kind, failure(400, "too long"))

    answered = [(await all_events(service))[-1][0] for _ in range(2)]
    failed = await service.client.post("/chat/stream", json={"message": "Why?"})

    assert answered == ["done", "done"]
    assert failed.status_code == 500
    assert [("stream_options" in body) for body in model_server.requests] == [True, True, False, False]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_a_streams_options_is_asked_without_them(
    service: Service, model_server: FakeOpenAI, status: int
) -> None:
    async def refuse_options(exchange: Exchange) -> None:
        refuses = "stream_options" in exchange.body
        await (json_body({"detail": "extra fields"}, status) if refuses else answer_in_kind)(exchange)

    model_server.enqueue(*[refuse_options] * 3)

    answered = [(await all_events(service))[-1][0] for _ in range(2)]

    assert answered == ["done", "done"]
    assert [("stream_options" in body) for body in model_server.requests] == [True, False, False]


async def test_one_question_that_a_filter_refuses_spoils_no_other(service: Service, model_server: FakeOpenAI) -> None:
    async def filter_bombs(exchange: Exchange) -> None:
        is_bad = "BOMB" in str(exchange.body["messages"])
        await (failure(400, "filtered", "content_filter") if is_bad else answer_in_kind)(exchange)

    model_server.enqueue(*[filter_bombs] * 4)
    session_id = (await service.chat("Hello")).json()["session_id"]

    refused = await service.chat("How is a BOMB made?", session_id=session_id)
    others = [await service.chat(question, session_id=session_id) for question in ("Then what?", "And then?")]

    assert refused.json()["error"]["code"] == "openai_refused"
    assert [response.status_code for response in others] == [200, 200]


async def demand_alternation(exchange: Exchange) -> None:
    """Answer as the chat templates of some models do, which take nothing but questions and answers in turn."""
    roles = [message["role"] for message in exchange.body["messages"]]
    turns = roles[1:] if roles[0] == "system" else roles
    alternates = turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    await (answer_in_kind if alternates else failure(400, "roles must alternate"))(exchange)


@pytest.mark.parametrize("limit", ["0", "1", "2", "5", "10", "100"])
async def test_a_server_whose_roles_must_alternate_answers_always(
    serve: Serve, model_server: FakeOpenAI, plug_in: PlugIn, limit: str
) -> None:
    async def search(_query: Query) -> list[Passage]:
        return [Passage(text="It walks.", source="/gait", title="Gait")]

    plug_in(search)
    service = await serve(HISTORY_LIMIT=limit)
    model_server.enqueue(demand_alternation, demand_alternation, failure(500), *[demand_alternation] * 20)

    first = await service.chat("One?")
    inside = {"session_id": first.json()["session_id"]}
    excerpt = await service.chat("Two?", selected_text="It rolls.", **inside)
    failed = await service.chat("Three?", **inside)
    at_once = await asyncio.gather(*(service.chat(f"{n}?", **inside) for n in range(3)))
    streamed = await all_events(service, "Four?", **inside)
    last = await service.chat("Give me an example", **inside)

    assert failed.status_code == 500
    assert {response.status_code for response in (first, excerpt, *at_once, last)} == {200}
    assert streamed[-1][0] == "done"


async def test_roles_alternate_after_a_retry_in_the_widget_too(service: Service, model_server: FakeOpenAI) -> None:
    headers = {"X-Reader-Token": "a-readers-own-token-0001"}
    model_server.enqueue(*[demand_alternation] * 2, failure(500), *[demand_alternation] * 4)

    async def send(kind: str, **params: Any) -> str:
        body = {"type": kind, "params": params}
        return (await service.client.post("/chatkit", json=body, headers=headers)).text

    def asking(text: str) -> dict[str, Any]:
        return {"content": [{"type": "input_text", "text": text}], "attachments": [], "inference_options": {}}

    await send("threads.create", input=asking("One?"))
    [session] = await service.tables.sessions()
    thread_id, [first, _] = str(session.id), await service.tables.messages()
    for text in ("Two?", "Three?", "Four?"):
        await send("threads.add_user_message", thread_id=thread_id, input=asking(text))
    retried = await send("threads.retry_after_item", thread_id=thread_id, item_id=str(first.id))
    after = await send("threads.add_user_message", thread_id=thread_id, input=asking("Five?"))

    assert [call["status"] for call in service.log("openai.call")] == ["ok", "ok", 500, "ok", "ok", "ok"]
    assert [m["role"] for m in model_server.prompt] == ["system", "user", "assistant", "user"]
    assert '"error"' not in retried + after


async def test_a_follow_up_still_knows_the_excerpt(service: Service, model_server: FakeOpenAI) -> None:
    session_id = (await service.chat("What is it?", selected_text="A hexapod has six legs.")).json()["session_id"]

    await service.chat("Give me an example", session_id=session_id)

    assert "A hexapod has six legs." in model_server.prompt[1]["content"]


@pytest.mark.parametrize(
    ("path", "lands_at"),
    [("", "/"), ("/", "/"), ("/v1", "/v1/"), ("/v1/", "/v1/"), ("/v1/chat/completions", "/v1/"), ("/a/b", "/a/b/")],
)
async def test_the_address_is_taken_as_it_is_pasted(
    serve: Serve, model_server: FakeOpenAI, path: str, lands_at: str
) -> None:
    host = model_server.url.removesuffix("/v1")
    service = await serve(OPENAI_BASE_URL=f' "{host}{path}" ')

    assert (await service.chat()).status_code == 200
    assert model_server.paths == [f"{lands_at}chat/completions"]


async def test_a_query_in_the_address_stays(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_BASE_URL=f"{model_server.url}?api-version=2026-01-01")

    assert (await service.chat()).status_code == 200
    assert model_server.paths == ["/v1/chat/completions?api-version=2026-01-01"]


async def test_what_the_operator_adds_is_in_every_request(serve: Serve, model_server: FakeOpenAI) -> None:
    extra = {"temperature": 0.2, "max_completion_tokens": 900, "chat_template_kwargs": {"enable_thinking": False}}
    service = await serve(
        OPENAI_EXTRA_BODY=json.dumps(extra),
        OPENAI_REASONING_EFFORT="max",
        OPENAI_ORG_ID="org-1",
        OPENAI_PROJECT_ID="proj_1",
        OPENAI_CUSTOM_HEADERS="X-Team: books\nX-Title: Our book",
    )

    await service.chat()
    await all_events(service)

    assert model_server.requests == [IsPartialDict(**extra, reasoning_effort="max")] * 2
    sent = {"openai-organization": "org-1", "openai-project": "proj_1", "x-team": "books", "x-title": "Our book"}
    assert model_server.headers == [IsPartialDict(sent)] * 2


async def test_what_the_operator_adds_is_read_from_the_env_file_and_without_what_pasting_adds(
    serve: Serve, model_server: FakeOpenAI, tmp_path: Path
) -> None:
    lines = ["OPENAI_ORG_ID=org-1", "OPENAI_REASONING_EFFORT=default", 'OPENAI_EXTRA_BODY={"temperature": 0.2}']
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8-sig")
    service = await serve(OPENAI_CUSTOM_HEADERS=' "X-Team: books\nX-Title: Our book"', OPENAI_PROJECT_ID="''")

    assert (await service.chat()).status_code == 200
    assert (await all_events(service))[-1][0] == "done"

    assert model_server.requests == [IsPartialDict(temperature=0.2, reasoning_effort="default")] * 2
    sent = {"openai-organization": "org-1", "x-team": "books", "x-title": "Our book"}
    assert model_server.headers == [IsPartialDict(sent)] * 2
    assert not [name for headers in model_server.headers for name in headers if '"' in name or "project" in name]


@pytest.fixture
def _env_file(tmp_path: Path) -> None:
    """A `.env` in the working directory, which only the settings read: the SDK reads the process's environment itself."""
    (tmp_path / ".env").write_text('OPENAI_PROJECT_ID=proj_1\nOPENAI_CUSTOM_HEADERS="X-Team: books"\n')


@pytest.mark.usefixtures("_env_file")
async def test_a_project_and_headers_from_the_env_file_are_sent_too(service: Service, model_server: FakeOpenAI) -> None:
    await service.chat()

    sent = {"openai-project": "proj_1", "x-team": "books"}
    assert model_server.headers == [IsPartialDict(sent)]


async def test_a_model_that_thinks_for_long_keeps_the_stream_open_and_can_still_fail(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.KEEPALIVE_SECONDS", 0.05)
    gate = asyncio.Event()
    model_server.enqueue(held(gate, failure(500)), held(gate, stream("Well.")))

    endings = []
    for _ in range(2):
        gate.clear()
        async with service.client.stream("POST", "/chat/stream", json={"message": "Why?"}) as response:
            assert response.status_code == 200
            lines = response.aiter_lines()
            assert await anext(lines) == ": ping"
            gate.set()
            endings.append([line async for line in lines if line.startswith("event: ")])

    assert endings == [["event: session", "event: error"], ["event: session", "event: delta", "event: done"]]
