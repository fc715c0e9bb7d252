"""Books made with what people make books with, each built anew unless what it is built from is as before."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SITES = Path(__file__).parent / "sites"
BUILT = SITES / "build"
MADE = {"node_modules", "build", "cache", "__pycache__"}
"""What building the sites leaves in their folders."""


def built(name: str) -> Path:
    """Return the folder of this site; skips the test if what builds it is missing."""
    folder = BUILT / name
    digest = hashlib.sha256()
    for path in sorted(SITES.rglob("*")):
        if path.is_file() and not {*path.parts} & MADE:
            digest.update(path.name.encode() + path.read_bytes())
    stamp = BUILT / f"{name}.digest"
    BUILT.mkdir(exist_ok=True)
    with (BUILT / f"{name}.lock").open("w") as lock:  # Other processes of the tests want it too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            shutil.rmtree(folder, ignore_errors=True)
            _BUILD[name](folder)
            stamp.write_text(digest.hexdigest())
    return folder


def npm_packages(name: str) -> Path:
    """Return the npm packages of this folder of the sites; skips the test if npm cannot install them."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    packages = SITES / name / "node_modules"
    if not packages.exists():
        installed = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=SITES / name, check=False, capture_output=True, timeout=300
        )
        if installed.returncode:
            pytest.skip(f"npm cannot install what {name} needs")
    return packages


def _build_vitepress(folder: Path) -> None:
    packages = npm_packages("vitepress")
    _run([packages / ".bin" / "vitepress", "build", "docs", "--outDir", folder], SITES / "vitepress")


def _build_turbo(folder: Path) -> None:
    turbo = npm_packages("turbo") / "@hotwired" / "turbo" / "dist" / "turbo.es2017-esm.js"
    shutil.copytree(SITES / "turbo" / "pages", folder)
    shutil.copy(turbo, folder)


def _build_material(folder: Path) -> None:
    _need("material")
    _run([sys.executable, "-m", "mkdocs", "build", "-q", "-f", "mkdocs.yml", "-d", folder], SITES / "material")


def _build_sphinx(theme: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        _need(theme)
        doctrees = BUILT / f"{theme}.doctrees"
        command: list[str | Path] = [sys.executable, "-m", "sphinx", "-q", "-b", "html"]
        command += ["-D", f"html_theme={theme}", "-d", doctrees]
        _run([*command, SITES / "sphinx", folder], SITES)

    return build


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip("the dependency group sites is not installed")


def _run(command: Sequence[str | Path], folder: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=300)


_BUILD = {
    "vitepress": _build_vitepress,
    "turbo": _build_turbo,
    "material": _build_material,
    "furo": _build_sphinx("furo"),
    "pydata": _build_sphinx("pydata_sphinx_theme"),
}
