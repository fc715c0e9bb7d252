"""What of a model's text is its answer."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.reasoning import AnswerText

ANSWER = "A machine."
OWN = "excerpt-0123456789abcdef"
HARMONY = (
    "<|channel|>analysis<|message|>They ask.<|end|><|start|>assistant<|channel|>final<|message|>A machine.<|return|>"
)


def read(*pieces: str) -> tuple[str, str]:
    """Return the answer in these pieces, and what was shown meanwhile."""
    text = AnswerText(lambda name: name == OWN)
    visible = "".join([*map(text.feed, pieces), text.close()])
    return text.answer_in(visible), visible


def assert_answer(text: str, answer: str) -> None:
    for size in (len(text) or 1, 1, 3):
        assert read(*(text[start : start + size] for start in range(0, len(text), size)))[0] == answer


BESIDE = {
    "thoughts": "<think>\nhm\n</think>\n\nA machine.",
    "thoughts in capitals": "<THINK>hm</THINK>A machine.",
    "thinking": "\n<thinking>a `tick\n</thinking>A machine.",
    "reasoning": "<reasoning>hm</reasoning>\nA machine.",
    "thoughts whose beginning is in the prompt": "They ask.\n\nHm.\n</think>\n\nA machine.",
    "thoughts of Seed": "<seed:think>hm</seed:think>A machine.",
    "thoughts of Kimi": "◁think▷hm◁/think▷A machine.",
    "thoughts of Magistral": "[THINK]hm[/THINK]A machine.",
    "thoughts of Command A": "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>A machine.<|END_RESPONSE|>",
    "Harmony's channels": HARMONY,
    "Harmony's channels from the start": f"<|start|>assistant{HARMONY}",
    "Harmony's commentary": f"<|channel|>commentary to=functions.x <|constrain|>json<|message|>{{}}<|call|>{HARMONY}",
    "Harmony's last channel alone": "<|channel|>final<|message|>A machine.<|end|>",
    "Harmony's last channel after text": "Hm.<|end|><|start|>assistant<|channel|>final<|message|>A machine.",
    "the end of ChatML": "A machine.<|im_end|>",
    "several ends": "A machine.\n<|im_end|>\n<|endoftext|>\n",
    "the end of Llama 2": "A machine.</s>",
    "the end of Llama 3": "A machine.<|eot_id|>",
    "the end of Gemma": "A machine.<end_of_turn>\n",
    "the end of DeepSeek": "A machine.<｜end▁of▁sentence｜>",  # noqa: RUF001  # Its own.
    "ends without an end": "A machine." + "<|endoftext|>" * 500,
    "a question that the model makes up": "A machine.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>",
    "a question in Gemma's words": "A machine.<end_of_turn>\n<start_of_turn>user\nAnd now?",
    "a question in Llama's words": "A machine.</s><s>[INST] And now? [/INST] Yes.",
    "the beginning of ChatML": "<|im_start|>assistant\nA machine.",
    "the beginning of Llama 3": "<|start_header_id|>assistant<|end_header_id|>\n\nA machine.",
    "a tag of the prompt": f"<{OWN}>\nA machine.",
    "a tag of the prompt with attributes": f'<{OWN} number="1" title="A &lt;title&gt;">\nA machine.',
    "tags of the prompt around it": f"<{OWN}>\nA machine.</{OWN}>",
}


@pytest.mark.parametrize("text", BESIDE.values(), ids=BESIDE)
def test_what_is_beside_the_answer_is_left_out(text: str) -> None:
    assert_answer(text, ANSWER)


def test_reasoning_within_the_answer_is_left_out() -> None:
    assert_answer("Let me see.\n<think>hm\nhm</think>\nA machine.", "Let me see.\n\nA machine.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  A machine.",
        "x < y, <b>a</b> [1] and a[0] ~ `b",
        "The tag <think> begins it, and </think> ends it.",
        "A\n<think> is a tag that nothing ends here. More.",
        "A\n<thinking>\n",
        "The token <|im_end|> ends a message.",
        "In code: `</think>`, `<|im_end|>` and ``<|channel|>final<|message|>``",
        "```\n</think>\n<think>hm</think>\n<|im_end|>\n```",
        "- ~~~html\n  <s>a</s></think>\n  ~~~\nand more",
        "```\nnever closed </s>",
        "an <s>old</s>",
        "<excerpt-0123456789abcdee>\nAnother's.",
        "The <|channel|>news is no channel",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert_answer(text, text)


def test_what_only_its_end_gives_away_has_been_shown() -> None:
    assert read("They ", "ask.</think>", "A machine.") == (ANSWER, f"They ask.{ANSWER}")


@pytest.mark.parametrize("text", ["<think>hm", "</think>", "They ask.</think>\n", "<|im_end|>", HARMONY[:40]])
def test_reasoning_alone_is_no_answer(text: str) -> None:
    assert_answer(text, "")


def test_what_a_model_writes_without_end_after_its_answer_is_not_waited_for() -> None:
    reader = AnswerText(lambda _: False)

    assert [reader.feed(piece) for piece in ("Six.", "<|eot_id|>" * 101, "More.")] == ["Six.", "", ""]
    assert reader.close() == ""
    assert reader.answer_in("Six.") == "Six."


def test_a_blank_line_ends_code_wherever_it_is_cut() -> None:
    assert read("</think>aa`\n\n", "</think>A machine.") == read("</think>aa`\n\n</think>A machine.")


@given(data=st.data())
def test_how_the_text_is_cut_into_pieces_makes_no_difference(data: st.DataObject) -> None:
    parts = st.sampled_from(
        [
            *(
                "<think>",
                "</think>",
                "a",
                " ",
                "\n",
                "`",
                "```",
                "<|im_end|>",
                "<|im_start|>",
                "assistant",
                "</s>",
                "<s>",
            ),
            *(
                "<|channel|>",
                "analysis",
                "final",
                "<|message|>",
                "<|end|>",
                "<|start|>",
                f"<{OWN}>",
                "[THINK]",
                "[/THINK]",
            ),
            *("<", ">", "~~~"),
        ]
    )
    text = "".join(data.draw(st.lists(parts, max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))

    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]

    assert read(*pieces)[0] == read(text)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "a",
        "`",
        " ",
        "<",
        "<|x|>",
        "\n",
        "~",
        "<think>",
        "</think>",
        "A<a-0123456789abcdef ",
        "```\n`\n",
        "[x",
        "\n<think>",
    ],
)
def test_the_time_that_reading_takes_grows_with_the_text_alone(part: str) -> None:
    def seconds(length: int) -> float:
        text = part * (length // len(part))
        started = time.process_time()
        read("A", *(text[start : start + 20] for start in range(0, length, 20)))
        read(f"A{text}")
        return time.process_time() - started

    assert seconds(80_000) < 12 * seconds(10_000) + 0.05  # It would be 64 times as long.
