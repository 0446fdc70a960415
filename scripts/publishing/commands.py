"""Running docker, skopeo, cosign, syft and git, each within a limit, with an error of one line."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD_LIMIT = 7200.0
"""Seconds for one build: PyInstaller takes some minutes, and ten times as long under emulation."""
_REASON = re.compile(r'\bmsg="((?:[^"\\]|\\.)*)"|^(?:ERROR|[Ee]rror|fatal): (.+)', re.MULTILINE)


class RefusedError(Exception):
    """Why nothing was begun, in one line: exit status 2."""


class FailedError(Exception):
    """A failure on the way, in one line: exit status 1."""


def run(*command: str, what: str, limit: float, environment: dict[str, str] | None = None, folder: Path = ROOT) -> str:
    """The output of the command, which runs in the folder.

    `what` says what the command is for, and begins the message of a FailedError. `limit` is in seconds.
    """
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=limit,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise RefusedError(f"{command[0]} is missing: install it (docs/release.md)") from None
    except subprocess.TimeoutExpired:
        raise FailedError(f"{what}: not done within {limit:g} seconds (TIMEOUT=600 sets another limit)") from None
    if result.returncode:
        raise FailedError(f"{what}: {reason(result.stderr) or f'exit status {result.returncode}'}")
    return result.stdout


def reason(output: str) -> str:
    """The line of a program's output that says why it failed."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    output = re.sub(r"^\[\d+\] +ERROR +", "", output, flags=re.MULTILINE)
    found = [first.replace('\\"', '"') or second for first, second in _REASON.findall(output)]
    lines = found or output.strip().splitlines()
    return " ".join(lines[-1].split()) if lines else ""


def commit() -> str:
    """The commit that is checked out. RefusedError if there are uncommitted changes."""
    try:
        if run("git", "status", "--porcelain", what="git status", limit=60).strip():
            raise RefusedError("the checkout has changes that are in no commit: commit or stash them first")
        return run("git", "rev-parse", "HEAD", what="git rev-parse", limit=60).strip()
    except FailedError as error:
        raise RefusedError(f"there is no commit to publish: {error}") from None


def export(folder: Path) -> None:
    """Write the files of the commit, with the modes that git knows: a checkout has those of somebody's umask."""
    file = folder / "commit.tar"
    run("git", "-c", "tar.umask=0022", "archive", "--output", str(file), "HEAD", what="git archive", limit=60)
    run("tar", "-xpf", str(file), "-C", str(folder), what="tar", limit=60)


def date() -> str:
    """The time of the commit, in seconds since 1970: the date of the image and of its files."""
    return run("git", "log", "-1", "--format=%ct", what="git log", limit=60).strip()


def _interrupt(*_: object) -> None:
    # Once: make passes SIGTERM on to a process that already has it, and a second one would end the cleaning up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def finish(name: str, action: Callable[[], None]) -> None:
    """End the process with the status of the action: 0, 1 where it failed, 2 where it was refused."""
    # As Ctrl-C, so that a stopped CI job leaves no files behind.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        action()
    except RefusedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except FailedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command continues from here", file=sys.stderr)
        raise SystemExit(130) from None
