"""A built site of random words for the reading in to be measured on, and the command that reads it in."""

import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.library import sentence
from benchmarks.servers import ROOT

URL = "https://book.example.org/"
_SECTIONS = 20
_FRAME = (
    '<!doctype html><html lang="en"><head><title>{title} - Book</title></head><body><nav><a href="/">Start</a></nav>'
    "<main><h1>{title}</h1>{sections}</main><footer>Made by hand</footer></body></html>"
)


@dataclass(frozen=True)
class Run:
    """What one run took."""

    seconds: float
    cpu_seconds: float
    """The processor's time of the command and of what it starts, without the database's and the model's."""
    resident_mib: float
    output: str


def build_site(folder: Path, chunks: int) -> None:
    """Write the pages of a site with so many sections, each of which is one chunk."""
    numbers = random.Random(chunks)
    for page in range(chunks // _SECTIONS):
        sections = "".join(
            f'<section id="s{section}"><h2>{sentence(numbers, 4)}</h2><p>{sentence(numbers, 160)}</p></section>'
            for section in range(_SECTIONS)
        )
        name = folder / f"part-{page // 50}" / f"page-{page}.html"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(_FRAME.format(title=sentence(numbers, 3), sections=sections))
    (folder / "index.html").write_text(_FRAME.format(title="Book", sections="<p>Start here."))


def run_ingest(folder: Path, database_url: str, model_url: str) -> Run:
    """Read in the site as its owner does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "app.book", "ingest", folder, "--url", URL],
        cwd=folder,
        env={
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "OPENAI_API_KEY": "sk-benchmark",
            "OPENAI_BASE_URL": model_url,
        },
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(time.perf_counter() - started, cpu, after.ru_maxrss / 1024, done.stdout)
