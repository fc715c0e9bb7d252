"""The languages of the widget as files: each has all the words and labels, in its own punctuation."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from app import widget

SAME_AS_ENGLISH = {
    ("de", "code"),
    ("fr", "code"),
    ("fr", "conversation"),
    ("fr", "conversations"),
    ("fr", "sources"),
    ("it", "formula"),
    ("nl", "code"),
}
"""What is spelled as in English. Everything else that is equal to the English text was forgotten."""

ENDINGS = {
    ".": ".\N{IDEOGRAPHIC FULL STOP}\N{DEVANAGARI DANDA}\N{ARABIC FULL STOP}",
    "?": "?\N{FULLWIDTH QUESTION MARK}\N{ARABIC QUESTION MARK}",
    ":": ":\N{FULLWIDTH COLON}",
    "…": "…",
}
"""How languages end what English ends in this way."""


def _read(name: str) -> Any:
    """Read the object literal that the script has, which is JSON but for its unquoted keys and trailing commas."""
    [literal] = re.findall(
        r"^(?:export )?(?:const \w+ =|default) (\{\n.*?^\});$",
        (widget.SCRIPTS / name).read_text(),
        re.MULTILINE | re.DOTALL,
    )
    literal = re.sub(r"(^ +|\{ |\", )(\w+):", r'\1"\2":', literal, flags=re.MULTILINE)
    return json.loads(re.sub(r",(\s*[}\]])", r"\1", literal))


ENGLISH = _read("languages.js")
LABELS = _read("labels.js")
WORDS = {path.stem: _read(f"languages/{path.name}") for path in sorted((widget.SCRIPTS / "languages").glob("*.js"))}
in_each_language = pytest.mark.parametrize("language", WORDS)


def _texts(words: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text with its name, such as `errors.network`."""
    for key, value in words.items():
        if isinstance(value, str):
            yield prefix + key, value
        else:
            yield from _texts(
                value if isinstance(value, dict) else {str(n): text for n, text in enumerate(value)}, f"{prefix}{key}."
            )


def test_there_are_at_least_twenty_languages_and_no_two_are_the_same() -> None:
    spoken = {"en": ENGLISH, **WORDS}

    assert len(spoken) >= 20
    assert LABELS.keys() == spoken.keys()
    assert len({tuple(label.values()) for label in LABELS.values()}) == len(LABELS)
    for one, other in combinations(spoken, 2):
        same = dict(_texts(spoken[one])).items() & dict(_texts(spoken[other])).items()
        assert len(same) < len(ENGLISH) / 4, (one, other)


@in_each_language
def test_a_language_has_all_the_words(language: str) -> None:
    own, english = dict(_texts(WORDS[language])), dict(_texts(ENGLISH))

    assert LABELS[language].keys() == LABELS["en"].keys()
    assert WORDS[language]["errors"].keys() == WORDS["ur"]["errors"].keys() >= ENGLISH["errors"].keys()
    assert {name for name in own if not name.startswith("errors.")} == {
        name for name in english if not name.startswith("errors.")
    }
    for name, text in english.items():
        assert Counter(re.findall(r"\{\w+\}", own[name])) == Counter(re.findall(r"\{\w+\}", text)), name
    assert {(language, name) for name, text in english.items() if own[name] == text} == {
        same for same in SAME_AS_ENGLISH if same[0] == language
    }


@in_each_language
def test_a_language_is_punctuated_in_its_own_way(language: str) -> None:
    english = dict(_texts(ENGLISH))

    for name, text in [*_texts(WORDS[language]), *_texts(LABELS[language])]:
        assert text == unicodedata.normalize("NFC", text).strip(), name
        assert not re.search(r"""\.\.|["']|  """, text), name
        ending = english.get(name, "")[-1:]
        assert text[-1] in ENDINGS.get(ending, text[-1]), name
        if language == "fr":
            assert not re.search(r"[^\u00a0\u202f][:;!?»]|«(?!\u00a0)", text), name
        if language in {"ja", "zh", "zh-Hant"}:
            assert not re.search(r"[,:;!?]|[^\w]\.|\.$", text), name


def test_languages_are_read_from_the_side_that_their_letters_are() -> None:
    [listed] = re.findall(
        r"^const RIGHT_TO_LEFT = (\[.*\]);$", (widget.SCRIPTS / "labels.js").read_text(), re.MULTILINE
    )

    assert json.loads(listed) == [
        language for language, label in LABELS.items() if unicodedata.bidirectional(label["ask"][0]) in {"R", "AL"}
    ]
