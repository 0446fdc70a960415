"""Command blocks of a Markdown document, and the shell that they run in.

A block fenced as ```console holds commands, each on a line that begins with `$ `, and below each what it prints.
Lines that begin with `> ` go on with the command above. What is printed is compared as doctest does with ELLIPSIS:
exactly, but for spaces at the end of a line, and for `...`, which stands for anything, within a line or for many lines.
If nothing is shown, nothing is compared. A command has to succeed. A block that shows a failure catches it:
`sh || echo "exit status $?"`. Blocks in other fences are not executed.
"""

import doctest
import os
import select
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

LIMIT = 300.0  # seconds for one command: some build an image
MARK = "-- the command ended with status"
_checker = doctest.OutputChecker()


@dataclass
class Command:
    text: str
    shown: str
    """The output that the document shows, `...` included."""
    line: int


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """The blocks of `document` that are fenced as `language`: the line each begins at, and its text."""
    tokens = MarkdownIt().parse(document.read_text())
    fences = [token for token in tokens if token.type == "fence" and token.info.strip() == language]
    return [(token.map[0] + 2, token.content) for token in fences if token.map]


def commands(document: Path) -> list[Command]:
    """The commands of `document`. ValueError if a block begins with something else."""
    found: list[Command] = []
    for first, text in blocks(document, "console"):
        if not text.startswith("$ "):
            raise ValueError(f"{document}:{first}: the block does not begin with a command")
        for number, line in enumerate(text.splitlines(), first):
            if line.startswith("$ "):
                found.append(Command(line[2:], "", number))
            elif line.startswith("> ") and not found[-1].shown:
                found[-1].text += f"\n{line[2:]}"
            else:
                found[-1].shown += f"{line}\n"
    return found


def difference(shown: str, printed: str) -> str | None:
    """How what was printed differs from what is shown; None if it does not."""
    if _checker.check_output(shown, printed, doctest.ELLIPSIS):
        return None
    example = doctest.Example("", shown)
    return _checker.output_difference(example, printed, doctest.ELLIPSIS | doctest.REPORT_NDIFF)


class Shell:
    """A bash that prints to a terminal, as the reader's does: without one, curl draws a progress meter."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._output, terminal = os.openpty()
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=terminal,
            stderr=terminal,
            text=True,
            start_new_session=True,
        )
        os.close(terminal)

    def run(self, command: str, limit: float = LIMIT) -> tuple[str, int]:
        """Output and exit status of the command. TimeoutError after `limit` seconds, with the output so far."""
        assert self._bash.stdin
        self._bash.stdin.write(f"eval {shlex.quote(command)} </dev/null\necho {shlex.quote(MARK)} $?\n")
        self._bash.stdin.flush()
        deadline = time.monotonic() + limit
        printed = b""
        while True:
            text = printed.decode(errors="replace").replace("\r", "")
            output, mark, status = text.rpartition(MARK)
            if mark and status.endswith("\n"):
                return "".join(f"{line.rstrip()}\n" for line in output.splitlines()), int(status)
            if not select.select([self._output], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"`{command}` did not end within {limit:.0f} s, and printed:\n{text}")
            printed += os.read(self._output, 1 << 16)

    def close(self) -> None:
        """End the shell and what still runs in it."""
        assert self._bash.stdin
        self._bash.stdin.close()
        os.killpg(self._bash.pid, signal.SIGTERM)
        try:
            self._bash.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
        os.close(self._output)
