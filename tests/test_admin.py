"""`python -m app.admin`: what readers asked, as people and spreadsheets read it, and what is no longer kept."""

import argparse
import asyncio
import csv
import io
import os
import sys
import tracemalloc
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from dirty_equals import IsPartialDict, IsStr
from sqlalchemy import insert, select, text, update
from sqlmodel import col

from app import admin
from app.commands import run as run_command
from app.models import ChatSession, Message, MessageRole, TokenUsage, utc_now
from app.retrieval import Passage, Query
from tests import commands
from tests.conftest import AdminCommand, PlugIn, Service, eventually
from tests.fake_openai import FakeOpenAI, completion, failure
from tests.marks import on_postgresql

TOKEN = "a-token-that-nobody-else-knows"
PASSAGE = Passage("A biped has two legs.", "https://book.example.org/gait", "Gait")


@pytest.fixture
def run(admin_command: AdminCommand) -> AdminCommand:
    """Run the command with these arguments on the service's database; gives its exit status and what it printed."""
    return admin_command


async def csv_rows(run: AdminCommand, *arguments: str) -> list[dict[str, str]]:
    status, output = await run("report", "--csv", "-", *arguments)
    assert status == 0, output
    return list(csv.DictReader(io.StringIO(output, newline="")))


async def questions(run: AdminCommand, *arguments: str) -> list[str]:
    return [row["question"] for row in await csv_rows(run, *arguments)]


async def rate(service: Service, answer: str, rating: str, comment: str | None = None) -> None:
    [message] = [m for m in await service.tables.messages() if m.content == answer]
    address = f"/chat/{message.session_id}/messages/{message.id}/feedback"
    assert (await service.client.put(address, json={"rating": rating, "comment": comment})).status_code < 300


async def test_the_report_has_each_question_with_its_answer_the_newest_first(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn, run: AdminCommand
) -> None:
    async def find(_query: Query) -> list[Passage]:
        return [PASSAGE, PASSAGE]

    plug_in(find)
    model_server.enqueue(completion("Two [1]."), completion("Four."), failure(500))
    await service.chat("How many legs?")
    await service.chat("And a dog?", selected_text="A dog has four legs.")
    await service.chat("Why?")
    await rate(service, "Two [1].", "negative", "Which two?")

    rows = await csv_rows(run)

    assert list(rows[0]) == list(admin.COLUMNS)
    assert [row["question"] for row in rows] == ["Why?", "And a dog?", "How many legs?"]
    assert rows[0] == IsPartialDict(answer="", model="", duration_ms="")
    assert rows[1] == IsPartialDict(selected_text="A dog has four legs.", answer="Four.", sources="", retrieved="0")
    assert rows[2] == IsPartialDict(
        time=IsStr(regex=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"),
        answer="Two [1].",
        sources="[1] Gait https://book.example.org/gait",
        feedback="negative",
        comment="Which two?",
        model="gpt-6-luna",
        prompt_tokens="11",
        completion_tokens="7",
        duration_ms=IsStr(regex=r"\d+"),
        retrieved="2",
        cited="1",
    )
    assert {row["session_id"] for row in rows} == {str(m.session_id) for m in await service.tables.messages()}


async def test_the_table_has_a_line_for_each_question(
    service: Service, model_server: FakeOpenAI, run: AdminCommand
) -> None:
    model_server.enqueue(completion("Two."), completion("x" * 500))
    await service.chat("How many\nlegs?\x1b[31m\x9b2J")
    await service.chat("How long?", selected_text="It is long.")
    await rate(service, "Two.", "positive", "Thanks")

    status, output = await run("report")

    heading, second, first = output.splitlines()
    assert status == 0
    assert heading.split() == ["TIME", "(UTC)", "RATED", "CITED", "TOKENS", "SECONDS", "QUESTION", "→", "ANSWER"]
    assert "positive" in first
    assert first.endswith("How many legs? [31m 2J → Two. (Thanks)")
    assert "“It is long.” How long? → xxx" in second
    assert second.endswith("…")
    assert " 18 " in first


async def test_questions_are_chosen_by_time_by_feedback_and_by_whether_the_book_answered(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn, run: AdminCommand
) -> None:
    async def find(query: Query) -> list[Passage]:
        return [PASSAGE] if "leg" in query.question else []

    plug_in(find)
    model_server.enqueue(completion("Two [1]."), completion("The book does not say."), completion("From memory."))
    for question in ("How many legs?", "Whose leg?", "What else?"):
        await service.chat(question)
    await service.chat("And here?", selected_text="A text.")
    model_server.enqueue(failure(500))
    await service.chat("Why?")
    await rate(service, "Two [1].", "positive")
    await rate(service, "From memory.", "negative")
    async with service.tables.engine.begin() as connection:
        a_year_ago = utc_now() - timedelta(days=365)
        old = update(Message).where(col(Message.content) == "Whose leg?").values(created_at=a_year_ago)
        await connection.execute(old)
    today, tomorrow = (str(utc_now().date() + timedelta(days=days)) for days in (-1, 2))

    assert await questions(run, "--feedback", "negative") == ["What else?"]
    assert await questions(run, "--feedback", "positive") == ["How many legs?"]
    assert await questions(run, "--unanswered") == ["Why?", "What else?", "Whose leg?"]
    assert await questions(run, "--unanswered", "--since", today) == ["Why?", "What else?"]
    assert await questions(run, "--until", today) == ["Whose leg?"]
    assert await questions(run, "--since", tomorrow) == []
    assert await questions(run, "--since", f"{today}T00:00+02:00", "--until", tomorrow, "--feedback", "negative") == [
        "What else?"
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "\n=1", "＝1"])  # noqa: RUF001
def test_a_cell_is_never_a_formula(cell: str) -> None:
    assert admin.as_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "Why?", "a = b", "'quoted'", "1", "روبوٹ"])
def test_another_cell_stays_as_it_is(cell: str) -> None:
    assert admin.as_cell(cell) == cell


async def test_the_csv_holds_any_text_and_no_token(
    service: Service, model_server: FakeOpenAI, run: AdminCommand, tmp_path: Path
) -> None:
    text = 'روبوٹ, "quoted"\nand\r\nlines; =1\t🤖'
    model_server.enqueue(completion(text))
    await service.client.post("/chat", json={"message": "=HYPERLINK(1)"}, headers={"X-Reader-Token": TOKEN})
    [session] = await service.tables.sessions()

    status, output = await run("report", "--csv", tmp_path / "report.csv")

    assert (status, output) == (0, "")
    written = (tmp_path / "report.csv").read_bytes().decode()
    [row] = csv.DictReader(io.StringIO(written, newline=""))
    assert (row["question"], row["answer"]) == ("'=HYPERLINK(1)", text)
    assert TOKEN not in written
    assert str(session.owner) not in written


@pytest.mark.slow
async def test_a_long_report_takes_little_memory(service: Service, run: AdminCommand, tmp_path: Path) -> None:
    session_id, now = uuid.uuid4(), utc_now()
    rows = [
        {
            "id": uuid.uuid4(),
            "session_id": session_id,
            "role": MessageRole.user,
            "content": f"{number} " + "x" * 5_000,
            "created_at": now + timedelta(seconds=number // 3),
        }
        for number in range(4 * admin.BATCH)
    ]
    async with service.tables.engine.begin() as connection:
        await connection.execute(insert(ChatSession).values(id=session_id, created_at=now, updated_at=now))
        await connection.execute(insert(Message), rows)
    del rows

    tracemalloc.start()
    try:
        await run("report", "--csv", tmp_path / "report.csv")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    with (tmp_path / "report.csv").open(newline="") as file:
        numbers = [int(row["question"].split()[0]) for row in csv.DictReader(file)]
    assert sorted(numbers) == list(range(4 * admin.BATCH))
    assert [number // 3 for number in numbers] == sorted((number // 3 for number in numbers), reverse=True)
    assert peak < 4 * admin.BATCH * 5_000


async def test_sessions_in_which_nothing_was_asked_for_long_are_deleted_in_batches(
    service: Service, model_server: FakeOpenAI, run: AdminCommand
) -> None:
    now = utc_now()
    old = [uuid.uuid4() for _ in range(2 * admin.BATCH + 1)]
    async with service.tables.engine.begin() as connection:
        for ids, moved_at in ((old, now - timedelta(days=31)), ([uuid.uuid4()], now - timedelta(days=29))):
            values = [{"id": each, "created_at": now - timedelta(days=99), "updated_at": moved_at} for each in ids]
            await connection.execute(insert(ChatSession), values)
        message = {"session_id": old[0], "role": MessageRole.user, "content": "Why?", "created_at": now}
        await connection.execute(insert(Message).values(id=uuid.uuid4(), **message))
        days = [{"day": now.date() - timedelta(days=n), "process": uuid.uuid4(), "tokens": 1} for n in (0, 40)]
        await connection.execute(insert(TokenUsage), days)
    await service.chat()

    counted = await run("prune", "--days", "30", "--dry-run")
    sessions_before = len(await service.tables.sessions())
    pruned = await run("prune", "--days", "30")
    again = await run("prune", "--days", "30")

    assert list(counted) == [0, IsStr(regex=r"1,001 sessions would be deleted, .+ UTC\.\n")]
    assert sessions_before == len(old) + 2
    assert list(pruned) == [0, IsStr(regex=r"1,001 sessions deleted, .+ UTC\.\n")]
    assert list(again) == [0, IsStr(regex=r"0 sessions deleted, .+\n")]
    assert len(await service.tables.sessions()) == 2
    assert {m.content for m in await service.tables.messages()} == {"What is a robot?", "Answer 1 to: What is a robot?"}
    async with service.tables.engine.connect() as connection:
        assert list((await connection.execute(select(col(TokenUsage.day)))).scalars()) == [now.date()]


@on_postgresql
async def test_a_session_that_moves_on_while_it_is_being_deleted_stays(service: Service, run: AdminCommand) -> None:
    await service.chat()
    engine = service.tables.engine
    async with engine.begin() as connection:
        await connection.execute(update(ChatSession).values(updated_at=utc_now() - timedelta(days=31)))

    async def deletion_waits() -> bool:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE%'")
        async with engine.connect() as connection:
            return bool((await connection.execute(waiting)).scalar_one())

    async with engine.begin() as connection:
        await connection.execute(update(ChatSession).values(updated_at=utc_now()))
        pruning = asyncio.ensure_future(run("prune", "--days", "30"))
        await eventually(deletion_waits)

    assert list(await pruning) == [0, IsStr(regex=r"0 sessions deleted, .+\n")]
    assert len(await service.tables.messages()) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "--since", "yesterday"),
        ("report", "--feedback", "none"),
        ("prune",),
        ("prune", "--days", "0"),
        ("prune", "--days", "-1"),
        ("prune", "--days", "9999999999"),
        (),
    ],
)
async def test_what_makes_no_sense_is_refused(run: AdminCommand, arguments: tuple[str, ...]) -> None:
    status, output = await run(*arguments)

    assert status == 2
    assert "usage: python -m app.admin" in output


async def test_a_file_that_cannot_be_written_is_one_line(service: Service, run: AdminCommand, tmp_path: Path) -> None:
    assert await run("report", "--csv", tmp_path / "absent" / "report.csv") == (
        1,
        f"{tmp_path}/absent/report.csv cannot be written: No such file or directory\n",
    )


def test_a_reader_of_the_output_may_have_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def say_much(_arguments: argparse.Namespace) -> None:
        sys.stdout.write("A robot walks.\n" * 10_000)

    parser = argparse.ArgumentParser()
    parser.set_defaults(command=say_much)
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "argv", ["command"])
    with open(writing, "w") as output:  # noqa: PTH123  # It has no path.
        monkeypatch.setattr(sys, "stdout", output)

        assert run_command(parser) == 1


@pytest.mark.slow
def test_without_settings_the_command_reports_on_the_embedded_database(tmp_path: Path) -> None:
    status, output = commands.run("-m", "app.admin", "report", folder=tmp_path)

    assert (status, len(output.splitlines())) == (0, 1)
