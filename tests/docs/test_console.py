"""The documents' commands print what is shown: every command block is executed, as `console.py` says.

Each document has a bash of its own and, in it, a copy of the checkout, so that nothing is left behind. The checkout's
.venv is used: tests/docs/newcomer shows that it can be made. The images are those that `make images` built.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.console import Command, Shell, blocks, commands, difference

# deploy/README.md is executed by tests/deploy.
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
COMMANDS = [(name, command) for name in DOCUMENTS for command in commands(ROOT / name)]
# Documents whose first block asks a service that runs already.
RUNNING = {"README.md"}
# Command blocks that are not executed, by document and first line, and why.
ELSEWHERE = {
    "README.md": {
        "make run": "tests/docs/newcomer",
        "make image-scratch run-scratch": "tests/images",
        'docker run --rm --publish 8080:8080 --read-only --cap-drop=ALL "$IMAGE"': "tests/images",
    },
    "docs/release.md": {
        "docker login registry.example": "tests/publish, with a registry on this machine",
        "COSIGN_PUBLIC_KEY=cosign.pub make verify IMAGE=registry.example/me/geoip:scratch": "tests/publish, as above",
        "cosign verify ghcr.io/OWNER/geoip:scratch-1.0.0 \\": "a keyless signature: the internet",
    },
    "docs/teaching.md": {"docker pull python:3.11-buster": "preparation at home: it pulls base images from registries"},
    "docs/workshop-publish.md": {
        "docker run --detach --rm --name registry --publish 127.0.0.1:5001:5000 --security-opt label=disable "
        '--volume "$PWD/build/registry:/var/lib/registry" registry:3': "it pulls an image from a registry",
        "export COSIGN_TLOG_UPLOAD=false COSIGN_USE_SIGNING_CONFIG=false": "tests/images/podman-steps types it",
    },
    "docs/workshop.md": {
        "export ENGINE=podman": "tests/images/podman-steps types it",
        "make reproduce NAME=scratch": "tests/images: two builds without the cache",
    },
    "docs/your-own-app.md": {
        "make own APP=path/to/project MODULE=your.module BASE=slim": "tests/own, with the examples",
        "make own APP=examples/django-agenda MODULE=agenda BASE=scratch WHOLE=whitenoise RUN='--env SECRET_KEY=x'": (
            "tests/own does the same"
        ),
    },
}


def copy_checkout(copy: Path) -> None:
    """Copy the newest commit and the uncommitted changes, without the remote, which the labels of images would name."""

    def git(folder: Path, *arguments: str) -> str:
        return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout

    git(ROOT, "clone", "--quiet", str(ROOT), str(copy))
    git(copy, "remote", "remove", "origin")
    for name in git(ROOT, "ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")[:-1]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy / name)
        else:
            (copy / name).unlink()
    (copy / ".venv").symlink_to(ROOT / ".venv")
    for lock in (copy / "requirements").iterdir():
        os.utime(lock, (0, 0))  # what .venv has is not installed again


@pytest.fixture(scope="module")
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The shell of one document."""
    copy = tmp_path_factory.mktemp("document") / "geoip"
    copy_checkout(copy)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEOIP_", "COMPOSE_", "MAKE"))}
    # Answers from the sample database, and no colours, pagers or progress bars.
    settings = {
        "PATH": f"{os.environ['PATH']}:{ROOT / '.venv/bin'}",  # cosign, where the distribution has none
        "GEOIP_SOURCES": "mmdb",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "BUILDKIT_PROGRESS": "plain",
    }
    opened = Shell(copy, kept | settings | {"LC_ALL": "C.UTF-8", "NO_COLOR": "1"})
    try:
        if request.param in RUNNING:
            wait = "until curl --silent --fail localhost:8080/healthz; do sleep 0.1; done"
            output, status = opened.run(f"(make run >/dev/null 2>&1 &); timeout 30 bash -c {wait!r}")
            assert status == 0, output
        yield opened
    finally:
        opened.close()
        subprocess.run(["make", "--silent", "stop"], cwd=ROOT, check=False, timeout=60)


@pytest.mark.parametrize(
    ("shell", "command"),
    COMMANDS,
    indirect=["shell"],
    scope="module",
    ids=[f"{name}:{command.line}" for name, command in COMMANDS],
)
def test_a_command_prints_what_is_shown(shell: Shell, command: Command) -> None:
    printed, status = shell.run(command.text)
    differs = difference(command.shown, printed) if command.shown else None
    assert differs is None, f"$ {command.text}\n{differs}"
    assert status == 0, f"$ {command.text}\nends with status {status}, and prints:\n{printed}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_block_that_is_not_executed_is_listed_with_its_reason(document: str) -> None:
    fences = re.findall(r"^ *```(\S*)$", (ROOT / document).read_text(), re.MULTILINE)
    assert not {"", "bash", "shell"} & set(fences[::2]), "fence commands as console or sh, anything else by its name"
    others = {text.splitlines()[0] for _, text in blocks(ROOT / document, "sh")}
    assert others == set(ELSEWHERE.get(document, {}))
