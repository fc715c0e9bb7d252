"""What model servers send, byte by byte: the text of an answer, and how it ended."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.completions import CompletionReader, ProviderError, provider_error

ANSWER = "A machine."


def chunk(content: Any = None, finish_reason: Any = None, **delta: Any) -> bytes:
    delta = delta if content is None else {"content": content, **delta}
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}).encode() + b"\n\n"


def whole(content: Any, finish_reason: Any = "stop", **message: Any) -> bytes:
    return json.dumps(
        {"choices": [{"message": {"content": content, **message}, "finish_reason": finish_reason}]}
    ).encode()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


STOP = chunk(finish_reason="stop")
DONE = b"data: [DONE]\n\n"
PIECES = chunk("A ma") + chunk("chine.")


def read(body: bytes, share: int = 1 << 30) -> CompletionReader:
    """Read the body in shares of so many bytes."""
    reader = CompletionReader(most_chars=100_000)
    told: list[str] = []
    for start in range(0, len(body), share):
        told += reader.feed(body[start : start + share])
    told += reader.close()
    assert "".join(told).rstrip().endswith(reader.text.rstrip())  # What only its end gives away had been told.
    assert "" not in told
    return reader


KEPT = {
    "whole": whole(ANSWER),
    "whole without a finish reason": whole(ANSWER, None),
    "whole with an empty finish reason": whole(ANSWER, ""),
    "whole with a byte order mark": b"\xef\xbb\xbf" + whole(ANSWER),
    "whole, indented": json.dumps(json.loads(whole(ANSWER)), indent=2).encode(),
    "whole in a list": b"[" + whole(ANSWER) + b"]",
    "pieces of which not all have an index": chunk("A ma") + event(choices=[{"index": 0, "delta": {"content": "chine."}}]) + STOP,
    "whole after blank lines": b"\n\n  " + whole(ANSWER) + b"\n",
    "length": whole(ANSWER, "length"),
    "MAX_TOKENS": whole(ANSWER, "MAX_TOKENS"),
    "STOP": whole(ANSWER, "STOP"),
    "end_turn": whole(ANSWER, "end_turn"),
    "an empty error": json.dumps({"error": None, **json.loads(whole(ANSWER))}).encode(),
    "parts": whole([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": ANSWER}]),
    "reasoning beside it": whole(ANSWER, reasoning_content="hm", reasoning="hm"),
    "an empty list of tool calls": whole(ANSWER, tool_calls=[]),
    "thought": whole(f"<think>\nhm, a robot\n</think>\n\n{ANSWER}"),
    "thought twice": whole(f"<think>hm</think>\n<think>hm</think> {ANSWER}"),
    "thought of nothing": whole(f"\n<think></think>{ANSWER}"),
    "stream": PIECES + STOP + DONE,
    "stream of parts": chunk([{"type": "text", "text": "A ma"}]) + chunk([{"type": "text", "text": "chine."}]) + STOP,
    "stream with retry": b"retry: 3000\n\n" + PIECES + STOP + DONE,
    "stream with pings": b"event: ping\n\n" + chunk("A ma") + b"data:\n\n" + chunk("chine.") + b"event: ping\ndata: {}\n\n" + STOP + DONE,
    "stream with ids": b"id: 1\n" + chunk("A ma") + b": ping\n\nid: 2\n" + chunk("chine.") + b": ping\n\n" + STOP + DONE,
    "stream with comments": b": OPENROUTER PROCESSING\n\n" + PIECES + b": OPENROUTER PROCESSING\n\n" + STOP + DONE,
    "stream without a finish reason": PIECES + DONE,
    "stream with an empty finish reason": PIECES + chunk("", "") + DONE,
    "stream without [DONE]": PIECES + STOP,
    "stream with an error after its end": PIECES + STOP + b'data: {"error": {"message": "too late"}}\n\n',
    "stream cut after its end": PIECES + STOP + b'data: {"choices": [], "usa',
    "stream without a last blank line": PIECES + STOP.rstrip(),
    "stream with single line ends": (PIECES + STOP + DONE).replace(b"\n\n", b"\n"),
    "stream with CRLF": (PIECES + STOP + DONE).replace(b"\n", b"\r\n"),
    "stream with CR": (PIECES + STOP + DONE).replace(b"\n", b"\r"),
    "stream without blanks after the colon": (PIECES + STOP + DONE).replace(b"data: ", b"data:"),
    "stream with a byte order mark": b"\xef\xbb\xbf" + PIECES + STOP,
    "stream with several lines of data": PIECES + b'data: {"choices": [{"delta": {},\ndata: "finish_reason": "stop"}]}\n\n',
    "stream whose last chunk repeats the message": PIECES
    + b'data: {"choices": [{"delta": {}, "message": {"content": "A machine."}, "finish_reason": "stop"}]}\n\n',
    "stream with usage after the end": PIECES + STOP + b'data: {"choices": [], "usage": {"prompt_tokens": 3}}\n\n' + DONE,
    "stream that begins with a filter's results": b'data: {"choices": [], "prompt_filter_results": []}\n\n' + PIECES + STOP,
    "stream with null choices and deltas": b'data: {"choices": null}\n\ndata: {"choices": [{"delta": null}]}\n\n' + PIECES + STOP,
    "stream with nulls": b"data: null\n\ndata: 1\n\n" + PIECES + STOP,
    "stream with a role first": chunk(role="assistant") + chunk("") + PIECES + STOP,
    "stream of thoughts": b"".join(map(chunk, ["<th", "ink>hm", "</thi", "nk>\n\nA ma", "chine."])) + STOP,
    "stream of reasoning": chunk(reasoning_content="hm") + PIECES + STOP,
    "stream with an empty list of tool calls": chunk("A ma", tool_calls=[]) + chunk("chine.", tool_calls=None) + STOP,
    "whole beside an empty delta (Perplexity)": json.dumps(
        {"choices": [{"message": {"content": ANSWER}, "delta": {"content": ""}, "finish_reason": "stop"}]}
    ).encode(),
    "whole with invalid UTF-8 beside the answer": whole(ANSWER, id="#").replace(b"#", b"\xff"),
    "whole with a raw tab in a string": whole(ANSWER, id="#").replace(b"#", b"\t"),
    "whole of several answers": json.dumps(
        {"choices": [{"index": i, "message": {"content": t}, "finish_reason": "stop"} for i, t in enumerate([ANSWER, "No."])]}
    ).encode(),
    "whole with a reason that is an object (SGLang)": whole(ANSWER, {"type": "stop", "matched": 7}),
    "thought in Gemini's tags": whole(f"<thought>hm</thought>{ANSWER}"),
    "thought in Magistral's tags": whole(f"[THINK]hm[/THINK]{ANSWER}"),
    "stream in which every piece is the last (Gemini)": chunk("A ma", "stop") + chunk("chine.", "stop") + DONE,
    "stream whose thoughts are the last piece (Open WebUI)": chunk(None, "stop", reasoning_content="hm") + PIECES + STOP + DONE,
    "stream with the reason null in quotes": chunk("A ma", "null") + chunk("chine.", "NULL") + STOP,
    "stream with the reason None in quotes": chunk("A ma", "None") + chunk("chine.", "FINISH_REASON_UNSPECIFIED") + DONE,
    "stream with finishReason (Gemini)": PIECES + event(choices=[{"delta": {}, "finish_reason": None, "finishReason": "stop"}]),
    "stream with the message so far beside each delta (Perplexity)": b"".join(
        event(choices=[{"delta": {"content": piece}, "message": {"content": so_far}, "finish_reason": None}])
        for piece, so_far in [("A ma", "A ma"), ("chine.", ANSWER)]
    ) + STOP,
    "stream of messages instead of deltas": event(choices=[{"message": {"content": ANSWER}, "finish_reason": "stop"}]),
    "stream of several answers": b"".join(
        event(choices=[{"index": index, "delta": {"content": text}, "finish_reason": None}])
        for index, text in [(0, "A ma"), (1, "No"), (0, "chine."), (1, ".")]
    ) + event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    "stream whose only answer has another index (LiteLLM)": event(
        choices=[{"index": 1, "delta": {"content": ANSWER}, "finish_reason": None}]
    ) + event(choices=[{"index": 1, "delta": {}, "finish_reason": "stop"}]),
    "stream with [DONE] in quotes": PIECES + b'data: "[DONE]"\n\n',
    "stream with [DONE] twice (Cloudflare)": PIECES + STOP + STOP + DONE + DONE,
    "stream with annotations of Azure": event(choices=[], prompt_filter_results=[{"prompt_index": 0}])
    + PIECES
    + event(choices=[{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 44}}], model="")
    + STOP,
    "stream with a status first": event(status="loading", message="The model is being loaded") + PIECES + STOP,
    "stream with Groq's own fields": event(x_groq={"id": "req_1"}, choices=[{"delta": {"role": "assistant", "content": ""}}])
    + PIECES + STOP,
    "stream with sources first": event(choices=[], citations=["a"], search_results=[]) + PIECES + STOP,
    "stream with a raw tab in a string": chunk("A ma", id="#").replace(b"#", b"\t") + chunk("chine.") + STOP,
    "stream without a type of parts": chunk([{"text": "A ma"}]) + chunk([{"type": "reference", "reference_ids": [1]}])
    + chunk("chine.") + STOP,
}  # fmt: skip


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_an_answer_that_is_whole_is_kept_however_it_comes(body: bytes) -> None:
    for share in (1 << 30, 7, 1):
        reader = read(body, share)

        assert (reader.outcome, reader.text) == ("ok", ANSWER)


@pytest.mark.parametrize(
    "text",
    [
        "x < y, <b> and <thinking>",
        "<b>A machine</b>",
        "A machine. <think>no reasoning</think>",
        "<",
        "  A machine.",
    ],
)
def test_what_only_looks_like_reasoning_stays(text: str) -> None:
    for share in (1 << 30, 1):
        assert read(whole(text), share).text == text
        assert read(b"".join(map(chunk, text)) + STOP, share).text == text


@pytest.mark.parametrize("pieces", [["A", 1, 0, "."], [10], ["", 7]])
def test_a_streamed_piece_that_is_all_digits_can_come_as_a_number(pieces: list[Any]) -> None:
    assert read(b"".join(map(chunk, pieces)) + STOP).text == "".join(map(str, pieces))


@pytest.mark.parametrize("body", [PIECES + STOP + DONE, PIECES + STOP, PIECES + DONE, whole(ANSWER)])
def test_an_answer_cut_at_any_byte_is_kept_whole_or_not_at_all(body: bytes) -> None:
    for end in range(len(body)):
        reader = read(body[:end])

        assert (reader.outcome == "ok") <= (reader.text == ANSWER)
        assert ANSWER.startswith(reader.text)


NOT_KEPT = {
    "incomplete": PIECES,
    "malformed, since only a part of the end came": PIECES + STOP[: len(STOP) // 2],
    **{
        f"aborted {reason} {kind}": body
        for reason in ("error", "abort", "insufficient_system_resource", "something new")
        for kind, body in {"whole": whole(ANSWER, reason), "streamed": PIECES + chunk(finish_reason=reason)}.items()
    },
    **{
        f"content_filter {reason} {kind}": body
        for reason in ("content_filter", "SAFETY", "RECITATION")
        for kind, body in {"whole": whole(ANSWER, reason), "streamed": PIECES + chunk(finish_reason=reason)}.items()
    },
    "refusal": whole(None, refusal="No."),
    "refusal streamed": chunk(refusal="N") + chunk(refusal="o.") + STOP,
    "tool_calls": whole(None, "tool_calls", tool_calls=[{"id": "1"}]),
    "tool_calls under another reason": whole(None, "stop", tool_calls=[{"id": "1"}]),
    "empty": whole(""),
    "empty but for blanks": whole(" \n"),
    "empty, null": whole(None),
    "empty behind the reasoning": whole("<think>hm</think>"),
    "empty within the reasoning": whole("<think>hm", "length"),
    "empty stream": STOP + DONE,
    "malformed page": b"<!doctype html><title>Welcome</title>",
    "malformed text": b"Bad Gateway",
    "malformed nothing": b"",
    "malformed object": b"{}",
    "malformed list": b"[]",
    "malformed choices": b'{"choices": {"0": {}}}' + b"}",
    "malformed, cut": whole(ANSWER)[:-5],
    "malformed, nested deeply": b"[" * 100_000,
    "malformed chunk": chunk("A ma") + b'data: {"choices": [{"delta"\n\n' + STOP,
    "error": b'{"error": {"message": "no"}}',
    "error in a list": b'[{"error": {"code": 400, "message": "no"}}]',
    "error in vLLM's form": b'{"object": "error", "message": "no", "code": 400}',
    "error in detail": b'{"detail": "no"}',
    "error as the first event": b'data: {"error": {"message": "no"}}\n\n',
    "error after some text": PIECES + b'data: {"error": {"message": "no"}}\n\n' + STOP,
    "error event": PIECES + b'event: error\ndata: {"message": "no"}\n\n',
    "error in llama.cpp's own field": b'error: {"code": 400, "message": "no", "type": "invalid_request_error"}\n\n'
    + DONE,
    "error in that field after some text": PIECES + b'error: {"code": 500, "message": "no"}\n\n' + DONE,
    "error event with text": b"event: error\ndata: no\n\n",
    "error event with a string": b'event: error\ndata: "no"\n\n',
    "error event with text, at the end": PIECES + b"event: error\ndata: no",
    "error written into the stream": PIECES + b'{"error": {"message": "no", "type": "server_error"}}\n',
    "error over several lines": b'data: {\ndata: "error": {"message": "no"}}\n\n',
    "error without a field for it (DashScope)": event(code="InvalidApiKey", message="no", request_id="1"),
    "error without a field for it, and [DONE]": event(detail="no") + DONE,
    "error without a field for it after some text": PIECES + event(message="no", code=502),
    "error after a piece that called itself the last": chunk("A ma", "stop") + event(error={"message": "no"}),
    "error that is true": b'{"error": true, "message": "no"}',
    "error in a list of texts": b'{"error": ["no"]}',
    "error of Cloudflare": b'{"success": false, "errors": [{"code": 7003, "message": "no"}], "result": null}',
    "error with a finish reason (OpenRouter)": event(
        error={"code": 502, "message": "no"}, choices=[{"delta": {"content": ""}, "finish_reason": "error"}]
    ),
    "content_filter content_filter: PROHIBITED_CONTENT (Gemini)": whole(None, "content_filter: PROHIBITED_CONTENT"),
    "content_filter sensitive (Zhipu)": PIECES + chunk(finish_reason="sensitive"),
    "empty thoughts in Gemini's tags": whole("<thought>hm"),
    "error in a choice": b'{"choices": [{"error": {"code": 502, "message": "no"}, "finish_reason": "error"}]}',
}


@pytest.mark.parametrize(("name", "body"), NOT_KEPT.items(), ids=NOT_KEPT)
def test_an_answer_that_is_not_whole_is_a_failure_of_its_kind(name: str, body: bytes) -> None:
    for share in (1 << 30, 5) if len(body) < 10_000 else (1 << 30,):
        reader = read(body, share)

        assert reader.outcome == name.replace(",", "").split()[0]
        if reader.outcome == "error":
            assert reader.error is not None
            assert reader.error.message == "no"


@pytest.mark.parametrize("body", [b'{"error": {"code": 429}}', b'data: {"error": {"code": 429}}\n\n'])
def test_an_error_can_be_no_more_than_a_code(body: bytes) -> None:
    reader = read(body)

    assert (reader.outcome, reader.error) == ("error", ProviderError("429", None))


def test_the_tokens_are_counted_where_the_server_counts_them() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    counted = json.dumps({**json.loads(whole(ANSWER)), "usage": usage}).encode()

    assert read(counted).usage == {"prompt_tokens": 11, "completion_tokens": 7}
    assert read(whole(ANSWER)).usage == {}
    assert read(json.dumps({**json.loads(whole(ANSWER)), "usage": "many"}).encode()).usage == {}


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a \ud83e", "\udd16."], "a \N{ROBOT FACE}."),
        (["a \ud83e", " b"], "a \ufffd b"),
        (["a \udd16"], "a \ufffd"),
        (["a", "\ud83e"], "a\ufffd"),
        (["a\x00b"], "a\ufffdb"),
        (["<think>\ud83e", "\udd16</think>\ud83e", "\udd16"], "\N{ROBOT FACE}"),
    ],
)
def test_characters_are_joined_or_replaced(pieces: list[str], text: str) -> None:
    assert read(b"".join(map(chunk, pieces)) + STOP).text == text


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "no"}}, "insufficient_quota", "no"),
        ({"error": {"code": None, "type": "rate_limit_error", "message": "no"}}, "rate_limit_error", "no"),
        ({"error": {"message": "no", "code": 429}}, "429", "no"),
        ([{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}], "400", "no"),
        ({"detail": "no"}, None, "no"),
        ({"detail": [{"loc": ["body"], "msg": "no", "type": "missing"}]}, "missing", "no"),
        ({"message": "no", "code": "x"}, "x", "no"),
        ({"error": "no"}, None, "no"),
        ({"errors": [{"code": 7003, "message": "no"}]}, "7003", "no"),
        ("no", None, "no"),
        (None, None, None),
        ({}, None, None),
        ({"error": {"type": "error"}}, None, None),
        ({"error": {"message": "no", "type": "None", "param": "None", "code": "401"}}, "401", "no"),
        ({"error": {"message": "no", "type": "None", "code": "None"}}, None, "no"),
        ({"error": "no", "code": "E7"}, "E7", "no"),
        ({"error": None, "detail": "no"}, None, "no"),
        ({"error": {}, "message": "no"}, None, "no"),
        ({"error": True, "message": "no"}, None, "no"),
        ({"statusCode": 401, "message": "no"}, None, "no"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, "overloaded_error", "no"),
        ({"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "no", "provider_name": "x"}}},
         "429", "Provider returned error: no"),
    ],
)  # fmt: skip
def test_the_cause_is_found_in_whatever_body_came(body: Any, code: str | None, message: str | None) -> None:
    assert provider_error(body) == ProviderError(code, message)


def test_every_code_of_an_error_is_known() -> None:
    error = {"error": {"code": 429, "type": "Insufficient_Quota", "status": "RESOURCE_EXHAUSTED", "message": "no"}}

    assert provider_error(error).codes == {"429", "insufficient_quota", "resource_exhausted"}


@given(data=st.data(), text=st.text(st.sampled_from("<>/thinkoug[]THINK \n\ud83e\udd16a\x00"), max_size=40))
def test_how_a_text_is_cut_into_pieces_makes_no_difference(data: st.DataObject, text: str) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]

    streamed, at_once = read(b"".join(map(chunk, pieces)) + STOP), read(whole(text))

    assert (streamed.text, streamed.outcome) == (at_once.text, at_once.outcome)
    at_once.text.encode()  # Raises for a surrogate.
    assert "\x00" not in at_once.text


@given(thoughts=st.text(st.characters(exclude_categories=["Cs"])), text=st.text(st.sampled_from("ab <>\n"), min_size=1))
@pytest.mark.parametrize(
    ("begin", "end"), [("<think>", "</think>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]")]
)
def test_no_thought_is_ever_seen(begin: str, end: str, thoughts: str, text: str) -> None:
    thoughts = thoughts.replace(end, "")
    assume(end not in thoughts)

    assert read(b"".join(map(chunk, f"{begin}{thoughts}{end}{text}")) + STOP).text == text.lstrip()


lines = st.sampled_from(
    [
        *(b"", b": ping", b"event: ping", b"id: 7", b"retry: 10", b"data:", b"data: null", b"data: [DONE]"),
        *(chunk(text).strip() for text in ("<think>", "</think>", "a", " ", "\ud83e", "\udd16", "ü")),
        *(STOP.strip(), b'data: {"error": {"message": "no"}}', b"\xff\xfe", b"data: {"),
        *(b'error: {"message": "no"}', b'{"error": "no"}', b"event: error", b"data: no", b'data: {"detail": "no"}'),
        *(chunk("b", "stop").strip(), chunk(7).strip(), b'data: {"choices": [', b'data: {"delta": {}}]}'),
    ]
)


@given(body=st.lists(lines, max_size=12), end=st.sampled_from([b"\n", b"\r\n", b"\r"]), share=st.integers(1, 9))
def test_how_a_body_is_cut_into_reads_makes_no_difference(body: list[bytes], end: bytes, share: int) -> None:
    at_once, in_shares = read(end.join(body)), read(end.join(body), share)

    assert (at_once.text, at_once.outcome, at_once.error) == (in_shares.text, in_shares.outcome, in_shares.error)
