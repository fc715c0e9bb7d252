"""What can be taken away: a folder takes its feature with it, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from tests import commands
from tests.conftest import ROOT

ASK = """
import json
from starlette.testclient import TestClient
from app.main import app

with TestClient(app) as client:
    asked = client.post("/chat", json={"message": "What walks?"})
    excerpt = client.post("/chat", json={"message": "What walks?", "selected_text": "Legs walk. Wheels roll."})
    print(json.dumps([asked.status_code, excerpt.json()["response"], client.get("/health/ready").status_code]))
"""


@pytest.fixture
def without_book(tmp_path: Path) -> Path:
    """A copy of the service without the folder `app/book`."""
    for folder in ("app", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / "copy" / folder, ignore=shutil.ignore_patterns("book", "__pycache__"))
    shutil.copy(ROOT / "alembic.ini", tmp_path / "copy")
    assert not (tmp_path / "copy" / "app" / "book").exists()
    return tmp_path / "copy"


@pytest.mark.slow
def test_without_its_folder_the_service_has_no_book_and_all_the_rest(without_book: Path) -> None:
    status, output = commands.run(
        "-c", ASK, folder=without_book, PYTHONPATH=str(without_book), FASTAPI_ENV="development", LOG_LEVEL="ERROR"
    )

    assert status == 0, output
    asked, excerpted, ready = json.loads(output.splitlines()[-1])
    assert (asked, ready) == (200, 200)
    assert "Legs walk." in excerpted
