"""Reading pages in a process of its own, since no parser can promise that a page takes little time and memory."""

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, Self, override

PAGE_SECONDS = 10
"""How much of a processor's time a page may take."""
_WALL_FACTOR = 6
"""On a busy machine, a page may take so many times that until it is read."""
_START_SECONDS = 60.0
_MEMORY_BYTES = 2_000_000_000


class TooLongError(Exception):
    """The page took too much time or memory; the message follows its name."""

    @override
    def __str__(self) -> str:
        return "takes too much time or memory to read"


class StoppedError(Exception):
    """Nothing is read any more, since whoever wanted it is gone."""


class Call(Protocol):
    """Calls a function that reads a page, and returns or raises what it does; perhaps also raises TooLongError."""

    def __call__[T](self, function: Callable[..., T], *arguments: Any) -> T: ...  # noqa: D102  # As the class says.


def at_once[T](function: Callable[..., T], *arguments: Any) -> T:
    """Call the function here, however long it takes."""
    return function(*arguments)


class Apart:
    """Calls functions in another process, which is ended when a call takes too long and started anew for the next one."""

    def __init__(self, seconds: int = PAGE_SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped = True  # Another thread may still be reading.
        self._end()

    def __call__[T](self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of a module; raises TooLongError, StoppedError after the block, and what the function raises."""
        with self._lock:
            if self._is_stopped:
                raise StoppedError
            try:
                process = self._process or self._start()
                has_failed, result = self._exchange(process, (function, arguments), self._seconds * _WALL_FACTOR)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                if self._is_stopped:
                    raise StoppedError from error
                self._end()
                raise TooLongError from error
        if has_failed:
            raise TooLongError if isinstance(result, MemoryError) else result
        return result  # type: ignore[no-any-return]  # It is what the function returned.

    def _start(self) -> subprocess.Popen[bytes]:
        # What reads pages is imported before the first call, since that is no part of a page's time.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; import app.book.site; "
            f"from {__name__} import answer_calls; answer_calls({self._seconds})"
        )
        # Ctrl-C is for this process alone, which then ends the other one.
        self._process = subprocess.Popen(  # noqa: S603  # Its arguments are ours.
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._exchange(self._process, (bool, ()), _START_SECONDS)
        return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], call: Any, seconds: float) -> tuple[bool, Any]:
        calls, answers = process.stdin, process.stdout
        if calls is None or answers is None:
            raise EOFError
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            pickle.dump(call, calls)
            calls.flush()
            answer: tuple[bool, Any] = pickle.load(answers)  # noqa: S301  # Our own process wrote it.
        finally:
            timer.cancel()
        return answer

    def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            with suppress(OSError):  # What was not sent yet cannot be sent any more.
                process.communicate()


def answer_calls(seconds: int) -> None:
    """Be the other process: answer each call on the standard input until this ends."""
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # Nothing else may be written among the answers.
    while True:
        try:
            function, arguments = pickle.load(calls)  # noqa: S301  # Our own process wrote it.
        except EOFError:
            return
        _limit(seconds)
        try:
            answer = (False, function(*arguments))
        except Exception as error:  # noqa: BLE001  # The caller gets it.
            answer = (True, error)
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:  # Nobody waits for it any more.
            return


def _limit(seconds: int) -> None:
    """Let the system end this process when the next call takes too much, where it can."""
    try:
        import resource  # noqa: PLC0415  # Windows has none; there, only the time on the wall counts.
    except ModuleNotFoundError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds + 1, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, hard))
