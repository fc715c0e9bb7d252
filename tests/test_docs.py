"""What the documentation promises: its settings, links, commands, routes and error codes are those of the code."""

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from app import errors
from app.config import Settings
from app.errors import ChatError
from app.main import app
from app.models import ChatRequest
from tests.commands import run as run_python
from tests.conftest import ROOT

README = ROOT / "README.md"
NOT_TOLD_TO_READERS = {"unsupported", "not_ready"}
"""Only ChatKit and monitors meet these."""
IN_THE_OWNERS_WORDS = {"paused"}
SETTINGS_PAGE = ROOT / "docs" / "settings.md"
API = ROOT / "docs" / "api.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

SETTINGS = {name.upper() for name in Settings.model_fields} - {"FASTAPI_ENV"}  # `fastapi dev` sets that one.
DEFAULTS = {name.upper(): field.default for name, field in Settings.model_fields.items()}
SYSTEM_PROGRAMS = {
    ".",
    "chmod",
    "claude",
    "curl",
    "export",
    "git",
    "npm",
    "pip",
    "printf",
    "python3",
    "sudo",
    "uv",
    "docker",
    "heroku",
}

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")

pytestmark = pytest.mark.usefixtures("_development")


@pytest.fixture
def _development(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text())


def rows(page: Path, heading: str | None = None) -> list[list[str]]:
    """The cells of the page's tables, or of those below one heading, without their own headings."""
    text = page.read_text()
    section = text.partition(f"\n{heading}\n")[2].partition("\n#")[0] if heading else text
    lines = [line for line in section.splitlines() if line.startswith("| `") or re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


class Link(NamedTuple):
    """A link in the documentation that stays in the repository."""

    page: Path
    text: str
    file: Path
    anchor: str


def links() -> Iterator[Link]:
    for page in PAGES:
        for text, target in LINK.findall(prose(page)):
            path, _, anchor = target.partition("#")
            if not re.match(r"[a-z]+:", target):
                yield Link(page, text, (page.parent / path).resolve() if path else page, anchor)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_blocks(page: Path) -> list[str]:
    """The page's shell examples."""
    return [block.strip() for language, block in FENCE.findall(page.read_text()) if language == "sh"]


def commands() -> list[str]:
    """Each command in the documentation's shell examples; an `.env` file's assignments are none."""
    lines = [line for page in PAGES for block in shell_blocks(page) for line in block.splitlines()]
    return [command for line in lines for command in line.split(" && ") if not re.match(r"[A-Z_]+=", command)]


def settings_of(text: str, folder: Path) -> Settings:
    """The settings of a development service with this `.env`."""
    (folder / ".env").write_text(text)
    return Settings.load()


def test_the_example_shows_every_setting_once() -> None:
    shown = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert sorted(shown) == sorted(SETTINGS)


def test_the_example_sets_nothing_but_defaults(tmp_path: Path) -> None:
    example = settings_of((ROOT / ".env.example").read_text(), tmp_path)

    assert example == settings_of("", tmp_path)


def test_what_the_example_shows_as_a_comment_is_valid_and_not_the_default(tmp_path: Path) -> None:
    lines = re.findall(r"^# ([A-Z_]+)(=.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)

    example = settings_of("".join(f"{name}{value}\n" for name, value in lines), tmp_path)

    assert lines
    assert [name for name, _ in lines if getattr(example, name.lower()) == DEFAULTS[name]] == []


def test_the_page_of_settings_shows_every_setting_once() -> None:
    shown = [name.strip("`") for name, _, _ in rows(SETTINGS_PAGE)]

    assert sorted(shown) == sorted(SETTINGS)
    assert "`FASTAPI_ENV=development`" in SETTINGS_PAGE.read_text()


def test_the_readme_shows_eight_settings_as_their_page_does() -> None:
    shown = rows(README, "## Settings")

    assert len(shown) == 8
    assert [row for row in shown if row not in rows(SETTINGS_PAGE)] == []


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_page_of_settings_shows_a_settings_default(name: str, tmp_path: Path) -> None:
    [(default, meaning)] = [row[1:] for row in rows(SETTINGS_PAGE) if row[0] == f"`{name}`"]

    assert meaning
    if DEFAULTS[name] is None:
        assert default
        assert not default.startswith("`")  # Words say what happens without it.
    else:
        shown = settings_of(f'{name}="{default.strip("`")}"', tmp_path)
        assert default == f"`{default.strip('`')}`"
        assert getattr(shown, name.lower()) == DEFAULTS[name]


def test_every_link_leads_somewhere() -> None:
    files = [link for link in links() if not (link.file.is_relative_to(ROOT) and link.file.exists())]
    headings = [link for link in links() if link.anchor and link.anchor not in anchors(link.file)]

    assert files == headings == []


def test_a_name_that_links_to_a_module_is_defined_there() -> None:
    names = [link for link in links() if link.file.suffix == ".py" and re.fullmatch(r"`\w+`", link.text)]

    def defined(link: Link) -> bool:
        definition = rf"^(async def|def|class) {link.text.strip('`')}\b"
        return re.search(definition, link.file.read_text(), re.MULTILINE) is not None

    assert names
    assert [link for link in names if not defined(link)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, new = set[Path](), {README}
    while new:
        reached |= new
        linked = {link.file for link in links() if link.page in new}
        new = linked.union(*(file.glob("*.md") for file in linked if file.is_dir())) - reached

    assert [page for page in PAGES if page not in reached] == []


def test_files_that_the_text_names_exist() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`((?:app|benchmarks|docs|migrations|tests|\.ci)/[\w./-]+)`", prose(page))
    }

    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_program_that_is_shown_exists() -> None:
    installed = {path.name for path in Path(sys.executable).parent.iterdir()}
    programs = {re.sub(r"^uv run (--\S+ \w+ )?", "", command).split()[0] for command in commands()}
    own = {program for program in programs if "/" in program}

    assert {"fastapi", "alembic", "./check"} <= programs
    assert programs - own - installed - SYSTEM_PROGRAMS == set()
    assert [program for program in own if not os.access(ROOT / program, os.X_OK)] == []


def test_every_module_that_a_command_runs_exists() -> None:
    modules = {module for command in commands() for module in re.findall(r"python3? -m (\S+)", command)}

    assert "benchmarks.neon" in modules
    assert [module for module in modules if not find_spec(module)] == []


def test_every_test_file_that_a_command_names_exists() -> None:
    files = {file for command in commands() for file in re.findall(r"\btests/[\w./]+", command)}

    assert "tests/test_dsn.py" in files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_extra_and_group_that_a_command_installs_exists() -> None:
    named = {match for command in commands() for match in re.findall(r"--(extra|group) (\S+)", command)}

    assert {kind for kind, _ in named} == {"extra", "group"}
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    assert [name for kind, name in named if name not in (extras if kind == "extra" else groups)] == []


def test_the_two_commands_are_shown_as_they_are() -> None:
    run, test, *_ = shell_blocks(README)

    assert run == "pip install uv && uv run fastapi dev"
    assert test.startswith("pip install uv && uv run pytest")


@pytest.mark.slow
def test_the_first_question_gets_the_answer_that_is_shown(tmp_path: Path) -> None:
    [question] = [block for block in shell_blocks(README) if block.startswith("curl")]
    [shown] = [json.loads(block) for language, block in FENCE.findall(README.read_text()) if language == "json"]
    asking = f"""
import app.book.sample, app.retrieval
from starlette.testclient import TestClient
from app.main import app as service

# However slow the machine is, the question waits for the book.
app.book.sample._PATIENCE_SECONDS = app.retrieval.RETRIEVAL_TIMEOUT_SECONDS = 100
with TestClient(service) as client:
    print(client.post("/chat", json={json.loads(shlex.split(question)[-1])}).text)
"""

    status, output = run_python("-c", asking, folder=tmp_path, FASTAPI_ENV="development", LOG_LEVEL="ERROR")

    assert status == 0, output
    answer = json.loads(output.splitlines()[-1])
    assert answer["response"] == shown["response"]
    assert answer.keys() == shown.keys()


def test_every_request_that_is_shown_is_valid() -> None:
    bodies = [
        json.loads(shlex.split(command)[-1])
        for command in commands()
        if command.startswith("curl") and "/mcp" not in command
    ]

    assert [ChatRequest.model_validate(body).model_dump(exclude_unset=True) for body in bodies] == bodies
    assert set().union(*bodies) == set(ChatRequest.model_fields)


def test_the_api_page_lists_every_route() -> None:
    listed = {request.strip("`") for request, _ in rows(API, "## Routes")}

    paths = app.openapi()["paths"]
    assert listed == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def kinds(kind: type[ChatError]) -> Iterator[type[ChatError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds(child)


def test_the_api_page_lists_every_error() -> None:
    listed = [(int(status), code.strip("`")) for status, code, _ in rows(API, "## Errors")]

    raised = {(kind.status, kind.code) for kind in kinds(ChatError)}
    # These are not exceptions of ours.
    of_the_framework = {(400, "validation_error"), (405, "method_not_allowed"), (413, "payload_too_large")}
    assert len(listed) == len(set(listed))
    assert set(listed) == raised | of_the_framework


def test_the_version_is_the_same_everywhere() -> None:
    assert app.version == PROJECT["project"]["version"]


def test_the_tree_of_errors_has_every_error() -> None:
    tree = dict(re.findall(r"^[├└─│ ]*(\w+Error) .*?(\d{3} \w+)?$", errors.__doc__ or "", re.MULTILINE))

    for kind in kinds(ChatError):
        if kind.__module__ != errors.__name__:  # Clients see its parent.
            continue
        assert kind.__name__ in tree
        assert tree[kind.__name__] in {"", f"{kind.status} {kind.code}"}


def test_the_widget_has_words_for_every_error_in_every_language() -> None:
    languages = sorted((ROOT / "app" / "widget" / "languages").glob("*.js"))  # English shows the service's own message.
    codes = {kind.code for kind in kinds(ChatError)} | {"out_of_order", "validation_error", "payload_too_large"}

    assert languages
    for language in languages:
        [words] = re.findall(r"errors: \{\n(.*?)\n\s+\}", language.read_text(), re.DOTALL)
        assert codes <= set(re.findall(r"^\s+(\w+):", words, re.MULTILINE)) | NOT_TOLD_TO_READERS | IN_THE_OWNERS_WORDS
