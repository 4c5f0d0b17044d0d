"""The README tells the truth: its tree is the real tree, its first lines lead a newcomer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def tracked(repository: Path) -> set[str]:
    """Files that git tracks or would; test files have one line for all of them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split()
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("needs a git checkout to know the real tree")
    present = {name for name in listed if (repository / name).exists()}
    return {name for name in present if not re.search(r"(^|/)test_\w+\.py$", name)}


def tree_of(readme: str) -> dict[str, str]:
    """Path → what its line says, from the block after 'What is where'."""
    block = readme.split("## What is where\n```\n")[1].split("```")[0]
    found: dict[str, str] = {}
    folder = ""
    for line in block.splitlines():
        name, _, words = line.strip().partition("  ")
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        if not name.endswith("/"):
            found[(folder if line.startswith(" ") else "") + name] = words.strip()
    return found


def test_every_file_has_its_line_and_every_line_its_file(readme: str, repository: Path) -> None:
    tree = tree_of(readme)
    tests = {name for name in tree if "*" in name}
    assert {name for name in tree if name not in tests} == tracked(repository)
    assert all(tree.values()), "a line without words"
    for pattern in tests:
        assert list(repository.glob(pattern)), pattern


def test_the_first_thirty_lines_lead_a_newcomer(readme: str) -> None:
    top = "\n".join(readme.splitlines()[:30])
    for words in ("make demo", "make test", "ray job submit --working-dir . -- python pipeline/ingest.py", "| word |"):
        assert words in top
    assert top.count("ray job submit") == 2
    assert re.search(r"\*\*\d", top), "one measured number"


def test_every_source_file_has_a_test_file(repository: Path) -> None:
    have = {path.stem for path in (repository / "tests").rglob("test_*.py")}
    for package in ("pipeline", "models", "attacks", "stores"):
        for path in sorted((repository / package).glob("*.py")):
            # What runs in processes of its own is tested by starting them: decode_child in test_decoder, cut_child in
            # test_cut_process, engine and ingest in tests/e2e and tests/faults, demo by `make demo`.
            if path.stem in ("__init__", "cut_child", "decode_child", "engine", "ingest", "demo"):
                continue
            names = {f"test_{path.stem}", f"test_{package}_{path.stem.strip('_')}"}
            assert names & have, f"{path.relative_to(repository)} has no test file"
            assert len(path.read_text().splitlines()) <= 400, f"{path} is over 400 lines"
