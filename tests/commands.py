"""Programs as people start them, in a folder and an environment of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import ROOT

ALEMBIC = ("-m", "alembic", "-c", ROOT / "alembic.ini")
TIMEOUT_SECONDS = 200


def start(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python <arguments>` in the folder; it sees no variables but these, and finds `app`."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def running_in_shell(
    command: str, *, folder: Path, output: Path, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a shell's command in the folder until the block ends, with our Python's programs; its output goes to the file."""
    programs = Path(sys.executable).parent
    known = {"PATH": f"{programs}:{os.environ['PATH']}", "UV_PROJECT_ENVIRONMENT": str(programs.parent)}
    with (
        output.open("w") as file,
        subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=folder,
            env={**known, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # The command's own processes too.


def finish(process: subprocess.Popen[str], text: str = "") -> tuple[int, str]:
    """Send the text, wait for the end, and return the exit status and everything that was printed."""
    with process:
        try:
            output, _ = process.communicate(text, timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    return process.returncode, output


def run(*arguments: str | Path, folder: Path, **environment: str) -> tuple[int, str]:
    """Run `python <arguments>` to its end; returns the exit status and everything that it printed."""
    return finish(start(*arguments, folder=folder, **environment))
