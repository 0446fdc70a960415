"""Sentences that need a second reading are found, with their line, and no others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 15), reason="google-re2, which proselint needs, has no wheel for Python 3.15"
)


def prose(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.prose", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "text", "line", "found"),
    [
        ("a.md", "# Title\n\nWhat goes wrong is logged.\n", 3, "relative"),
        ("a.md", "It starts.\nWhere it cannot, it\nstops.\n", 2, "relative"),
        ("a.md", "- Whoever reads it knows.\n", 1, "relative"),
        ("a.md", "| a | b |\n| - | - |\n| x | Who asks gets it. |\n", 3, "relative"),
        ("a.md", "A whiteout is no\ndeletion.\n", 1, "is not an X"),
        ("a.md", "It is basically a list.\n", 1, "filler"),
        ("a.md", "The source is left alone.\n", 1, "pause"),
        ("a.md", "The patience of the store.\n", 1, "time left"),
        ("a.md", "Buster adds that nobody mends it.\n", 1, "riddle"),
        ("a.md", "A test is absolutely essential.\n", 1, "Redundancy"),
        ("a.py", "x = 1\n# Where it cannot, it stops.\n", 2, "relative"),
        ("a.py", "x = 1  # What it is, is this.\n", 1, "relative"),
        ("a.py", 'def f() -> None:\n    """Return.\n\n    What is left is sent.\n    """\n', 4, "relative"),
        ("a.Dockerfile", "FROM scratch\n# What a step wrote is dated 1970.\n", 2, "relative"),
        ("Makefile", "run: ## simply serve\n\ttrue\n", 1, "filler"),
    ],
)
def test_a_sentence_that_needs_a_second_reading_is_found(
    tmp_path: Path, name: str, text: str, line: int, found: str
) -> None:
    (tmp_path / name).write_text(text)
    result = prose(tmp_path / name)
    assert result.returncode == 1, result.stderr
    assert result.stdout.count("\n") == 1, result.stdout
    assert result.stdout.startswith(f"{tmp_path / name}:{line}: ")
    assert found in result.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "## What is known\n\nWhat does it cost? There is no shell. It is no longer there.\n"),
        ("a.md", "It says\n\n```text\nWhat is is no answer.\n```\n\nand `is no answer` and [this](really.md).\n"),
        ("a.py", 'x = "What is in a string is data."\n'),
        ("a.py", "# The comment\nwhere = 1  # of a variable\n"),
        ("a.py", "# It answers from the place\n# Where it stands, and nothing else.\n"),
        ("a.Dockerfile", "RUN echo really\n"),
        ("a.md", ""),
    ],
)
def test_a_question_a_title_and_code_are_not_sentences(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    result = prose(tmp_path / name)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
