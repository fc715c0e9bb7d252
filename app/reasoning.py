"""What a model writes that is no part of its answer: its reasoning, its template's control tokens, the tags of its prompt.

Servers are meant to take these out, and not all do. They are recognised as the text comes, in time that grows with the text
alone, and stay where they are code: a book may well explain them.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

_THOUGHTS = "think|thinking|thoughts?|reasoning|reflection|scratchpad|seed:think"
_OPENING = re.compile(
    rf"<(?:{_THOUGHTS})>|\[THINK\]|◁think▷|<unused94>(?:thought)?|<\|(?:begin_of_thought|START_THINKING)\|>"
    r"|(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?:analysis|commentary)\b[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"</(?:{_THOUGHTS})>|\[/THINK\]|◁/think▷|<unused95>|<\|(?:end_of_thought|END_THINKING)\|>"
    r"|(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final\b[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>",
    re.IGNORECASE,
)
"""Some templates put the beginning of the reasoning into the prompt, and only its end is seen."""
_END_OF_CHANNEL = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|(?:channel|start)\|>)")
_START_OF_MESSAGE = re.compile(
    r"(?:<\|(?:im_start|start|start_header_id|user|assistant|system|START_OF_TURN_TOKEN)\|>|<start_of_turn>"
    r"|<｜(?:User|Assistant)｜>|\[INST\]|<s>|<bos>)(?:\s*(?:assistant|model)\b)?(?:<\|end_header_id\|>)?"  # noqa: RUF001
)
"""What a template puts before a message. After an answer's end, it begins one that the model makes up."""
_CONTROL = re.compile(r"<\|[A-Za-z_]\w{0,39}\|>|<｜[^｜<>\n]{1,40}｜>|<(?:end_of_turn|eos|pad|/s)>|\[/INST\]|\[EOS\]")  # noqa: RUF001
_CONTROLS = re.compile(rf"(?:\s|(?!{_START_OF_MESSAGE.pattern})(?:{_CONTROL.pattern}))*")
_OWN_TAG = re.compile(r"</?(\w+-[0-9a-f]{16})(?: [^<>\n]*)?>\n?")

_MARK = re.compile(r"[`~<\[◁]")
"""Where code or one of these may begin."""
_UNDECIDED = re.compile(
    r"</?[\w:-]{0,40}|</?\w+-[0-9a-f]{16} [^<>\n]{0,400}|\[/?[A-Z]{0,5}|◁/?\w{0,5}|<unused94>\w{0,6}"
    r"|<[|｜][^|｜<>\n]{0,40}[|｜]?|<\|channel\|>[^\n]{0,150}|<\|start\|>\s*\w{0,9}\s*(?:<[^\n]{0,150})?"  # noqa: RUF001
    r"|(?:<\|(?:im_start|start_header_id|user|assistant|system|START_OF_TURN_TOKEN)\|>|<start_of_turn>"
    r"|<｜(?:User|Assistant)｜>|\[INST\]|<s>|<bos>)\s*\w{0,9}(?:<\|?\w{0,14}\|?)?"  # noqa: RUF001
)
"""What may still become one of these, at the end of what has come."""
_RUN = re.compile(r"`+|~+")
_LONGEST_CLOSING = 160
_SHARE_CHARS = 2_048
_MOST_HELD = 1_000
"""How many blanks and control tokens are waited through for what follows them; some models never stop writing these."""


class _Block(NamedTuple):
    """Reasoning that has begun."""

    end: re.Pattern[str]
    text: list[str] | None
    """What there is of it, if it counts as text should it never end; None if it is reasoning anyway."""


class AnswerText:
    """Picks the answer out of what a model writes, piece by piece."""

    def __init__(self, is_own_tag: Callable[[str], bool]) -> None:
        """`is_own_tag` says whether the prompt has tags of this name."""
        self._is_own_tag = is_own_tag
        self._shown = self._begins_at = 0
        self._line = self._held = ""
        self._block: _Block | None = None
        self._end_of_code: re.Pattern[str] | None = None
        self._strips = self._names_opening = self._has_closed = self._strikes = self._has_ended = False

    def feed(self, content: str) -> str:
        """Return the text that has become visible with this content."""
        is_plain = self._shown and not (self._held or self._strips or self._block or self._end_of_code)
        if is_plain and not self._has_ended and not _MARK.search(content):
            return self._show(content)
        # What remains of a share is copied at each mark in it.
        shares = (content[start : start + _SHARE_CHARS] for start in range(0, len(content), _SHARE_CHARS))
        return "".join(self._scan(share, is_last=False) for share in shares)

    def close(self) -> str:
        """Return what was held back, at the text's end."""
        visible = self._scan("", is_last=True)
        if self._block and self._block.text is not None:
            visible += self._show("".join([*self._block.text, self._held]))
        return visible

    def answer_in(self, visible: str) -> str:
        """Return the answer, given all that was visible: without what its end alone gave away as reasoning."""
        answer = _OWN_TAG.sub(lambda tag: "" if self._is_own_tag(tag[1]) else tag[0], visible[self._begins_at :])
        return answer.rstrip() if self._has_ended else answer

    def _show(self, text: str) -> str:
        self._shown += len(text)
        self._line = (self._line + text)[-40:]
        return text

    def _scan(self, text: str, *, is_last: bool) -> str:
        text, self._held, visible = self._held + text, "", []
        while text and not self._has_ended:
            if self._block:
                shown, text = self._read_block(self._block, text, is_last=is_last)
            elif self._end_of_code:
                shown, text = self._read_code(self._end_of_code, text, is_last=is_last)
            else:
                shown, text = self._read_text(text, is_last=is_last)
            visible.append(self._show(shown))
        return "".join(visible)

    def _hold(self, text: str, start: int = 0) -> tuple[str, str]:
        """Show the text up to here, and wait for what comes after the rest."""
        self._held = text[start:]
        return text[:start], ""

    # Each of these returns what is shown of the text, and what is to be read next.

    def _read_block(self, block: _Block, text: str, *, is_last: bool) -> tuple[str, str]:
        if _MARK.search(text) and (match := block.end.search(text)):
            self._block, self._strips = None, not self._shown
            self._has_closed |= not self._shown
            return "", text[match.end() :]
        if block.text is not None and not is_last:
            block.text.append(text[:-_LONGEST_CLOSING])
        self._held = text if is_last else text[-_LONGEST_CLOSING:]
        return "", ""

    def _read_code(self, end: re.Pattern[str], text: str, *, is_last: bool) -> tuple[str, str]:
        match = end.search(text)
        if match and (is_last or match.end() < len(text)):
            self._end_of_code = None
            return text[: match.end()], text[match.end() :]
        if is_last:
            return text, ""
        to_come = _END_OF_CODE_TO_COME.search(text, max(0, len(text) - _LONGEST_CLOSING))
        return self._hold(text, to_come.start() if to_come else len(text))

    def _read_text(self, text: str, *, is_last: bool) -> tuple[str, str]:
        if self._strips:
            text = text.lstrip()
            self._strips = not text
            if not text:
                return "", ""
        if not self._shown and not is_last and text.isspace() and len(text) < _MOST_HELD:
            return self._hold(text)
        mark = _MARK.search(text)
        if mark is None:
            return text, ""
        start = mark.start()
        if text[:start].strip() or (start and self._shown):
            return text[:start], text[start:]
        if run := _RUN.match(text, start):
            return self._begin_code(text, run, is_last=is_last)
        return self._read_mark(text, start, is_last=is_last)

    def _begin_code(self, text: str, run: re.Match[str], *, is_last: bool) -> tuple[str, str]:
        if run.end() == len(text) and not is_last and len(run[0]) < _LONGEST_RUN:
            return self._hold(text)
        line = self._line.rpartition("\n")[2] + text[: run.start()].rpartition("\n")[2]
        is_fence = len(run[0]) >= _SHORTEST_FENCE and _BEFORE_FENCE.fullmatch(line) is not None
        if (is_fence or run[0][0] == "`") and len(run[0]) < _LONGEST_RUN:
            self._end_of_code = _end_of_code(run[0], is_fence=is_fence)
        return text[: run.end()], text[run.end() :]

    def _read_mark(self, text: str, start: int, *, is_last: bool) -> tuple[str, str]:  # noqa: PLR0911  # One for each mark.
        """Read what begins with a bracket; before it there is nothing but blanks at the answer's beginning."""
        if match := _CLOSING.match(text, start):
            return self._read_closing(text, match)
        if match := _OPENING.match(text, start):
            return self._read_opening(text, match)
        if (match := _OWN_TAG.match(text, start)) and self._is_own_tag(match[1]):
            if match.end() == len(text) and not is_last:
                return self._hold(text)
            self._strips = not self._shown
            return "", text[match.end() :]
        if not is_last and _UNDECIDED.fullmatch(text, start):
            return self._hold(text)
        if match := _START_OF_MESSAGE.match(text, start) or _CONTROL.match(text, start):
            return self._read_control(text, match, is_last=is_last)
        return text[: start + 1], text[start + 1 :]

    def _read_closing(self, text: str, match: re.Match[str]) -> tuple[str, str]:
        if self._names_opening:
            return text[: match.end()], text[match.end() :]
        if not self._has_closed or match[0].endswith("|>"):
            self._begins_at = self._shown
        self._has_closed = self._strips = True
        return "", text[match.end() :]

    def _read_opening(self, text: str, match: re.Match[str]) -> tuple[str, str]:
        is_within_line = self._shown and self._line.rpartition("\n")[2].strip()
        if is_within_line and match[0].startswith("<") and not match[0].endswith("|>"):
            self._names_opening = True
            return text[: match.end()], text[match.end() :]
        end = _END_OF_CHANNEL if match[0].endswith("<|message|>") else _CLOSING
        self._block = _Block(end, [match[0]] if self._shown else None)
        return "", text[match.end() :]

    def _read_control(self, text: str, match: re.Match[str], *, is_last: bool) -> tuple[str, str]:
        """Read a control token: dropped at the beginning and at the end, as is all that follows an answer's end."""
        if not self._shown:
            self._strips = True
            return "", text[match.end() :]
        is_html = match[0] in {"<s>", "</s>"} and (self._strikes or match[0] == "<s>")
        if is_html:
            self._strikes = match[0] == "<s>"
            return text[: match.end()], text[match.end() :]
        end = run.end() if (run := _CONTROLS.match(text, match.start())) else match.end()
        if end == len(text) or (not is_last and _UNDECIDED.fullmatch(text, end)):
            self._has_ended = is_last or len(text) > _MOST_HELD
            return ("", "") if self._has_ended else self._hold(text)
        if _CLOSING.match(text, end):
            return "", text[end:]
        if _START_OF_MESSAGE.match(text, end):
            self._has_ended = True
            return "", ""
        return text[: match.end()], text[match.end() :]


_SHORTEST_FENCE, _LONGEST_RUN = 3, 40
_BEFORE_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*")
_END_OF_CODE_TO_COME = re.compile(r"(?:\n(?:[ \t]{0,100}\n)?[ \t>]{0,40}[`~]{0,40}[ \t]{0,40}|[`~]{1,40})\Z")


@lru_cache
def _end_of_code(run: str, *, is_fence: bool) -> re.Pattern[str]:
    """Return what ends code that begins with this run: a line like it, or a run as long in the same paragraph."""
    if is_fence:
        return re.compile(rf"\n[ \t>]*{run}[`~]*[ \t]*(?=\n|\Z)")
    return re.compile(rf"(?<!`){run}(?!`)|\n[ \t]*\n")
