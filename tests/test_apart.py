"""The process that reads pages, as far as it can be told without one: what becomes of it and of the call that ends it."""

from typing import Any, override

import pytest

from app.book.apart import Apart, StoppedError, TooLongError


class FakeProcess:
    """A process that can only be ended."""

    is_ended = False

    def kill(self) -> None:
        self.is_ended = True

    def communicate(self) -> None:
        assert self.is_ended


class FakeApart(Apart):
    """Starts such processes, from which each call has the next outcome."""

    def __init__(self, *outcomes: Any) -> None:
        super().__init__()
        self.started: list[FakeProcess] = []
        self.outcomes = [*outcomes]

    @override
    def _start(self) -> Any:
        self._process: Any = FakeProcess()
        self.started.append(self._process)
        return self._process

    @override
    def _exchange(self, *_: Any) -> tuple[bool, Any]:  # type: ignore[override]  # It needs the outcomes.
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        has_failed, result = outcome
        return has_failed, result


def test_calls_return_or_raise_what_the_function_does_in_one_process() -> None:
    with FakeApart((False, 3), (True, LookupError("gone")), (False, 4)) as call:
        assert call(len, "abc") == 3
        with pytest.raises(LookupError, match="gone"):
            call(len, "abc")
        assert call(len, "abcd") == 4

    assert [process.is_ended for process in call.started] == [True]


@pytest.mark.parametrize("outcome", [EOFError(), BrokenPipeError(), (True, MemoryError())], ids=repr)
def test_a_page_that_takes_too_much_is_told_and_the_next_one_is_read(outcome: Any) -> None:
    with FakeApart(outcome, (False, 3)) as call:
        with pytest.raises(TooLongError, match="takes too much time or memory to read"):
            call(len, "ab")
        assert call(len, "abc") == 3

    assert all(process.is_ended for process in call.started)
    assert len(call.started) == (2 if isinstance(outcome, OSError | EOFError) else 1)


def test_after_the_end_nothing_is_read_any_more() -> None:
    with FakeApart() as call:
        pass

    with pytest.raises(StoppedError):
        call(len, "abc")
    assert call.started == []
