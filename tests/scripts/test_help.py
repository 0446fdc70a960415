"""The output of `--help`, for the programs that need only the packages of the app and of the tests."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["own", "outline", "publish", "verify"])
def test_help_says_how_a_script_is_called_and_does_nothing_else(name: str) -> None:
    command = [sys.executable, "-m", f"scripts.{name}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: ")
