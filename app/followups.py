"""Follow-up questions: the block with which the model ends its answer if it is asked for one, and which is no part of it."""

import re
from collections.abc import Callable

from app.citations import without_markers
from app.models import DeltaEvent, FollowUpsEvent

_OPEN, _CLOSE = "<follow-ups>", "</follow-ups>"
_MOST_QUESTIONS = 3
_LONGEST_QUESTION = 200
_ITEM = re.compile(r"(?:[-*\N{BULLET}]|\d{1,2}[.)])\s+")


class Splitter:
    """Takes an answer piece by piece, and gives back what is not the block, however the pieces are cut.

    What can still become the block is held back, and so are the blanks before it. A block without an end has no questions.
    """

    def __init__(self) -> None:
        self._held = ""
        self._searched = 0
        """How much of the held text is known not to have the block's end."""
        self._is_inside = self._is_after = False
        self._questions: list[str] = []

    @property
    def questions(self) -> list[str]:
        """The questions of a block that has its end."""
        return self._questions

    def feed(self, piece: str) -> str:
        """Return the text that is known to be the answer's with this piece."""
        self._held += piece
        shown = ""
        while True:
            if self._is_inside:
                end = self._held.find(_CLOSE, self._searched)
                if end < 0:
                    self._searched = max(0, len(self._held) - len(_CLOSE))
                    return shown
                self._questions = self._questions or _questions(self._held[:end])
                self._held = self._held[end + len(_CLOSE) :]
                self._is_inside, self._is_after = False, True
            before, opened, after = self._held.partition(_OPEN)
            if not opened:
                return shown + self._show(self._without_beginning())
            shown += self._show(before.rstrip())
            self._is_inside, self._held, self._searched = True, after, 0

    def close(self) -> str:
        """Return what was held back and is the answer's after all, since it has ended."""
        rest, self._held = self._held, ""
        return "" if self._is_inside else self._show(rest)

    def _without_beginning(self) -> str:
        """Take the text out of what is held, except for an end that can be the beginning of a block."""
        lengths = range(min(len(_OPEN) - 1, len(self._held)), 0, -1)
        length = next((length for length in lengths if self._held.endswith(_OPEN[:length])), 0)
        text = self._held[: len(self._held) - length].rstrip()
        self._held = self._held[len(text) :]
        return text

    def _show(self, text: str) -> str:
        if not self._is_after:
            return text
        # The blanks before the block are gone.
        text = text.lstrip()
        self._is_after = not text
        return f"\n\n{text}" if text else ""


def _questions(block: str) -> list[str]:
    """Return the block's questions, one from each line."""
    lines = (" ".join(without_markers(_ITEM.sub("", line.strip(), count=1)).split()) for line in block.splitlines())
    questions = dict.fromkeys(line for line in lines if line and len(line) <= _LONGEST_QUESTION)
    return [*questions][:_MOST_QUESTIONS]


class Telling:
    """Tells of an answer's pieces, and at its end of the follow-up questions, if the model was asked for some."""

    def __init__(self, emit: Callable[[DeltaEvent | FollowUpsEvent], None] | None, *, has_follow_ups: bool) -> None:
        self._emit = emit
        self._splitter = Splitter() if has_follow_ups else None

    def add(self, piece: str) -> None:
        """Tell of the next piece."""
        self._tell(self._splitter.feed(piece) if self._splitter else piece)

    def end(self, text: str) -> str:
        """Tell of what is left, and return the answer of the whole text."""
        if self._splitter is None:
            return text
        self._tell(self._splitter.close())
        whole = Splitter()
        answer = whole.feed(text) + whole.close()
        if self._emit and whole.questions and answer.strip():
            self._emit(FollowUpsEvent(questions=whole.questions))
        return answer

    def _tell(self, text: str) -> None:
        if self._emit and text:
            self._emit(DeltaEvent(text=text))
