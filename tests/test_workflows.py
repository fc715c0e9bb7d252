"""What stands in `.github`: it names what exists, may do nothing but read, and ends by itself."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
MANIFESTS = {"uv": "uv.lock", "npm": "package-lock.json", "docker": "Dockerfile", "github-actions": ".github/workflows"}

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def loaded(path: Path) -> Any:
    # YAML 1.1 reads the key `on` as true.
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


@each_workflow
def test_a_workflow_may_only_read_and_ends_by_itself(path: Path) -> None:
    workflow = loaded(path)

    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] == "true"
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) <= 60
        assert "permissions" not in job


@each_workflow
def test_a_workflow_runs_what_checks_everything_and_names_the_versions_of_actions(path: Path) -> None:
    steps = [step for job in loaded(path)["jobs"].values() for step in job["steps"]]

    assert steps[-1]["run"] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_every_supported_python_is_tested() -> None:
    [matrix] = [
        job["strategy"]["matrix"] for path in WORKFLOWS for job in loaded(path)["jobs"].values() if "strategy" in job
    ]
    newest = loaded(GITHUB / "workflows" / "newest-dependencies.yml")

    assert (ROOT / ".python-version").read_text().strip() == "3.12"
    assert matrix == {"python": ["3.13", "3.14"]}
    assert "schedule" in newest["on"]
    assert any("uv lock --upgrade" in step.get("run", "") for step in newest["jobs"]["check"]["steps"])


def test_everything_with_versions_is_updated() -> None:
    updates = loaded(GITHUB / "dependabot.yml")["updates"]

    assert {update["package-ecosystem"] for update in updates} == set(MANIFESTS)
    for update in updates:
        for folder in update.get("directories") or [update["directory"]]:
            assert (ROOT / folder.strip("/") / MANIFESTS[update["package-ecosystem"]]).exists()


def test_whoever_reports_a_fault_is_asked_for_the_request_id() -> None:
    fields = {field.get("id") for field in loaded(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}

    assert "request-id" in fields
