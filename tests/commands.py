"""Programs as people start them, in a folder and an environment of their own."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

ALEMBIC = ("-m", "alembic", "-c", ROOT / "alembic.ini")
TIMEOUT_SECONDS = 60


def start(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python <arguments>` in the folder; it sees no variables but these, and finds `app`."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
