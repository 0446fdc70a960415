"""The `docker` command, as a reader would type it. ENGINE=podman takes Podman's, which has the same commands."""

import os
import re
import subprocess
from pathlib import Path

ENGINE = os.environ.get("ENGINE", "docker")
LIMIT = 600.0  # seconds for one command


class ToolError(Exception):
    """A program failed, or is not installed. One line says why."""


def run(*command: str | Path, limit: float = LIMIT) -> str:
    """Return the standard output of a program, or else its standard error. ToolError if its exit status is not 0."""
    name, words = str(command[0]), [str(word) for word in command]
    try:
        # In a session of its own, so that Ctrl-C reaches this program alone, which then cleans up.
        result = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=limit, start_new_session=True
        )
    except OSError as error:
        raise ToolError(f"{name} cannot be run ({error.strerror}): is it installed?") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"{name} took more than {limit:.0f} s") from None
    if result.returncode != 0:
        reason = last_line(result.stderr) or last_line(result.stdout) or f"exit status {result.returncode}"
        raise ToolError(f"{name}: {reason.removeprefix(f'{name}: ')}")
    return result.stdout.strip() or result.stderr.strip()


def docker(*arguments: str | Path) -> str:
    """Return the output of a docker command; ToolError."""
    return run(ENGINE, *arguments)


def last_line(text: str) -> str:
    """The last line that is not empty, without the escape sequences of a terminal."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^\n\x20-\x7e\xa0-\U0010ffff]", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip() and not line.startswith("Run 'docker")]
    return lines[-1][:400] if lines else ""
