"""The command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from app import __version__
from tests.conftest import ROOT, environment, free_port


def run(tmp_path: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(**{"PYTHONPATH": ROOT, "PORT": free_port(), "GEOIP_BIND": "127.0.0.1"} | settings),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    process = run(tmp_path, "-m", "app", "dance")
    assert process.returncode == 2
    assert "dance" in process.stderr


def test_it_says_its_version(tmp_path: Path) -> None:
    process = run(tmp_path, "-m", "app", "--version")
    assert (process.returncode, process.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize("command", [[], ["serve"]])
def test_serving_is_the_default(command: list[str], tmp_path: Path) -> None:
    process = run(tmp_path, "-m", "app", *command, GEOIP_TIMEOUT="soon")
    assert process.returncode == 2
    assert process.stderr.startswith("geoip: GEOIP_TIMEOUT: ")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_during_the_start_ends_it_with_status_0(number: str, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "class Orchestrator:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'pydantic': os.kill(os.getpid(), signal.{number})\n"
        "sys.meta_path.insert(0, Orchestrator())\n"
        "from app.__main__ import main; main(); print('too late')"
    )
    process = run(tmp_path, "-c", code)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
