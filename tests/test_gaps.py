"""`report --gaps`: what the book could not answer, and `report --cost`: what the answers cost."""

import csv
import io
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from dirty_equals import IsStr
from sqlalchemy import insert, make_url

from app.book import gaps
from app.book.embeddings import Embedder
from app.book.gaps import AskedGaps
from app.config import Settings
from app.models import ChatSession, Message, MessageRole, utc_now
from app.retrieval import Passage, Query
from tests.conftest import AdminCommand, PlugIn, Serve, Service
from tests.fake_openai import FakeOpenAI, completion, failure
from tests.marks import on_one_database, on_postgresql
from tests.test_admin import rate

PASSAGE = Passage("A biped has two legs.", "https://book.example.org/gait", "Gait")


async def ask_all(service: Service, *questions: str) -> None:
    for question in questions:
        assert (await service.chat(question)).status_code == 200


async def find(query: Query) -> list[Passage]:
    return [PASSAGE] if "leg" in query.question else []


async def gap_rows(admin_command: AdminCommand, *arguments: str) -> tuple[list[dict[str, str]], str]:
    """The rows of the CSV, and what was said beside it."""
    status, output = await admin_command("report", "--gaps", "--csv", "-", *arguments)
    assert status == 0, output
    notes, heading, table = output.partition("group,")
    return list(csv.DictReader(io.StringIO(heading + table, newline=""))), notes


async def test_questions_that_the_book_did_not_answer_are_grouped_the_most_frequent_first(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn, admin_command: AdminCommand
) -> None:
    plug_in(find)
    model_server.enqueue(completion("Two [1]."), completion("Two [1]."), completion("It does not say."))
    await ask_all(service, "How many legs?", "Which leg is longest?", "Whose leg is it?")
    await ask_all(
        service, "What is a lidar sensor?", "Explain what a lidar sensor is!", "what is a  lidar sensor", "Why?"
    )
    await service.chat("And this?", selected_text="A text.")
    model_server.enqueue(failure(500))
    await service.chat("What is a lidar sensor?")
    [disliked, _] = [m for m in await service.tables.messages() if m.content == "Two [1]."]
    address = f"/chat/{disliked.session_id}/messages/{disliked.id}/feedback"
    await service.client.put(address, json={"rating": "negative"})

    rows, notes = await gap_rows(admin_command)
    status, table = await admin_command("report", "--gaps")

    assert notes == ""
    assert [(row["group"], row["asked_in_group"], row["question"], row["asked"]) for row in rows] == [
        ("1", "3", "what is a  lidar sensor", "2"),
        ("1", "3", "Explain what a lidar sensor is!", "1"),
        ("2", "1", "Why?", "1"),
        ("3", "1", "Whose leg is it?", "1"),
        ("4", "1", "How many legs?", "1"),
    ]
    assert [[row[name] for name in ("nothing_found", "not_cited", "negative")] for row in rows] == [
        ["2", "0", "0"],
        ["1", "0", "0"],
        ["1", "0", "0"],
        ["0", "1", "0"],
        ["0", "0", "1"],
    ]
    assert rows[0]["last_asked"] == IsStr(regex=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
    assert status == 0
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [["3", "3"], ["1", "1"], ["1", "1"], ["1", "1"]]
    assert table.splitlines()[1].endswith("what is a lidar sensor / Explain what a lidar sensor is!")
    assert model_server.embedded.count("Why?") == 2


async def test_without_embeddings_questions_are_grouped_by_their_words(
    service: Service, model_server: FakeOpenAI, admin_command: AdminCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask_all(service, "How does a servo work?", "What are servos?", "Which battery lasts longest?", "هیومینائڈ؟")
    model_server.enqueue_embeddings(failure(404))

    without_server, notes = await gap_rows(admin_command)
    monkeypatch.setenv("FASTAPI_ENV", "development")
    monkeypatch.delenv("OPENAI_API_KEY")
    without_key, notes_without_key = await gap_rows(admin_command)

    assert notes == "text-embedding-3-small gave no embeddings (404), so the questions are grouped by their words.\n"
    assert notes_without_key == "OPENAI_API_KEY is not set, so the questions are grouped by their words.\n"
    assert without_server == without_key
    assert [(row["group"], row["question"]) for row in without_key] == [
        ("1", "What are servos?"),
        ("1", "How does a servo work?"),
        ("2", "هیومینائڈ؟"),
        ("3", "Which battery lasts longest?"),
    ]


@on_one_database
async def test_gaps_are_chosen_by_time_and_feedback_too(
    service: Service, model_server: FakeOpenAI, admin_command: AdminCommand
) -> None:
    model_server.enqueue(completion("One."), completion("Two."))
    await ask_all(service, "What walks?", "What rolls?")
    await rate(service, "One.", "negative")

    disliked, _ = await gap_rows(admin_command, "--feedback", "negative")
    later, _ = await gap_rows(admin_command, "--since", str(utc_now().date() + timedelta(days=2)))

    assert [row["question"] for row in disliked] == ["What walks?"]
    assert later == []


def turn(question: str, minute: int = 0) -> Any:
    return SimpleNamespace(
        question=question, created_at=datetime(2026, 11, 1, 0, minute, tzinfo=UTC), feedback=None, retrieved=0
    )


async def test_many_different_questions_are_grouped_by_meaning(
    model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("OPENAI_BASE_URL", model_server.url)
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    embedder, asked = Embedder(Settings.load()), AskedGaps()
    subjects = [f"subject{number} detail{number} kind{number}" for number in range(30)]
    for number, subject in enumerate([*subjects, *subjects[:20], *subjects[:10]]):
        asked.add(turn(f"{subject} form{number}"))

    found = await asked.grouped_by_meaning(embedder)
    await embedder.close()

    assert [gap.count for gap in found] == [*[3] * 10, *[2] * 10, *[1] * 10]
    assert all(len({question.text.split()[0] for question in gap.questions}) == 1 for gap in found)


async def test_only_the_latest_questions_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")
    monkeypatch.setattr(gaps, "MOST_QUESTIONS", 2)
    asked, notes = AskedGaps(), list[str]()
    for minute, question in enumerate(("Legs?", "Wheels?", "Arms?", "legs")):
        asked.add(turn(question, 59 - minute))

    found = await asked.grouped(Settings.load(), notes.append)

    assert notes[0] == "Only the latest 2 different questions are grouped."
    assert [(gap.questions[0].text, gap.count) for gap in found] == [("Legs?", 2), ("Wheels?", 1)]


async def answered(service: Service, *answers: tuple[str, str | None, int | None, int | None, int | None]) -> None:
    """Record answers: the time, the model, and the tokens of the prompt, of its cached part, and of the completion."""
    session_id, now = uuid.uuid4(), utc_now()
    rows = [
        {
            "id": uuid.uuid4(),
            "session_id": session_id,
            "role": MessageRole.assistant,
            "content": "It is.",
            "created_at": datetime.fromisoformat(time),
            "model": model,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "completion_tokens": completion_,
        }
        for time, model, prompt, cached, completion_ in answers
    ]
    async with service.tables.engine.begin() as connection:
        await connection.execute(insert(ChatSession).values(id=session_id, created_at=now, updated_at=now))
        await connection.execute(insert(Message), rows)


async def test_the_cost_of_each_day_is_shown_by_model(
    service: Service, admin_command: AdminCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OPENAI_PRICES",
        '{"own": {"input": 1000, "output": 10000}, "other": {"input": 1000, "cached_input": 0, "output": 10000}}',
    )
    await answered(
        service,
        ("2026-11-01T23:59:59.9+00:00", "gpt-5.4-mini-2026-03-17", 1_000_000, 400_000, 100_000),
        ("2026-11-02T00:30:00+02:00", "gpt-5.4-mini-2026-03-17", 1_000_000, None, 0),
        ("2026-11-02T00:00:00+00:00", "own", 20, 10, 3),
        ("2026-11-02T12:00:00+00:00", "own", None, None, None),
        ("2026-11-02T12:00:00+00:00", "other", 20, 10, 3),
        ("2026-11-02T12:00:00+00:00", "unknown", 7, None, 5),
        ("2026-11-02T12:00:00+00:00", None, None, None, None),
    )

    status, output = await admin_command("report", "--cost", "--csv", "-")
    _, since = await admin_command(
        "report", "--cost", "--csv", "-", "--since", "2026-11-02", "--until", "2026-11-02T06:00"
    )
    _, table = await admin_command("report", "--cost")

    assert status == 0
    assert output.splitlines() == [
        "day,model,answers,uncounted,prompt_tokens,cached_tokens,completion_tokens,cost",
        "2026-11-02,,1,1,0,0,0,",
        "2026-11-02,other,1,0,20,10,3,0.04",
        "2026-11-02,own,2,1,20,10,3,0.05",
        "2026-11-02,unknown,1,0,7,0,5,",
        "2026-11-01,gpt-5.4-mini-2026-03-17,2,0,2000000,400000,100000,1.68",
    ]
    assert since.splitlines()[1:] == ["2026-11-02,own,1,0,20,10,3,0.05"]
    assert [" ".join(line.split()) for line in table.splitlines()[6:]] == [
        "total 2 2,000,000 400,000 100,000 1.6800 gpt-5.4-mini-2026-03-17",
        "total 2 20 10 3 0.0500 own",
        "total 1 20 10 3 0.0400 other",
        "total 1 0 0",
        "total 1 7 5 unknown",
        "No price is known of an unnamed model, unknown: see OPENAI_PRICES.",
        "The model's server did not count the tokens of 2 of the answers.",
    ]


@on_postgresql
async def test_a_day_is_one_of_utc_in_whatever_time_zone_the_database_is(
    service: Service, admin_command: AdminCommand, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    in_karachi = make_url(database_url).update_query_dict({"options": "-c TimeZone=Asia/Karachi"})
    monkeypatch.setenv("DATABASE_URL", in_karachi.render_as_string(hide_password=False))
    await answered(service, ("2026-11-01T23:59:59+00:00", "own", 1, None, 1))

    _, output = await admin_command("report", "--cost", "--csv", "-")

    assert output.splitlines()[1:] == ["2026-11-01,own,1,0,1,0,1,"]


@on_one_database
async def test_what_the_service_answers_and_what_fails_is_counted(
    serve: Serve, model_server: FakeOpenAI, admin_command: AdminCommand
) -> None:
    service = await serve(OPENAI_MODEL="gpt-5.4-mini")
    await ask_all(service, "What walks?", "What rolls?")
    model_server.enqueue(completion(None))
    assert (await service.chat("What flies?")).status_code == 500

    _, output = await admin_command("report", "--cost", "--csv", "-")

    by_model = {row["model"]: row for row in csv.DictReader(io.StringIO(output, newline=""))}
    answered, failed = by_model["gpt-6-luna"], by_model["gpt-5.4-mini"]
    names = ("model", "answers", "prompt_tokens", "completion_tokens")
    assert [answered[name] for name in names] == ["gpt-6-luna", "2", "22", "14"]  # As the server calls it.
    assert [failed[name] for name in names] == ["gpt-5.4-mini", "0", "11", "7"]
    assert float(failed["cost"]) > float(answered["cost"]) > 0


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("--gaps", "--cost"), 2, "not allowed with argument"),
        (("--cost", "--unanswered"), 1, "--cost counts every answer"),
        (("--cost", "--feedback", "negative"), 1, "--cost counts every answer"),
    ],
)
async def test_views_that_exclude_each_other_are_refused(
    admin_command: AdminCommand, arguments: tuple[str, ...], status: int, complaint: str
) -> None:
    found, output = await admin_command("report", *arguments)

    assert found == status
    assert complaint in output
