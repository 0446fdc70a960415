"""Commands and programs for readers work on a Mac as well: with zsh, bash 3.2 and the tools of BSD."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "deploy/README.md"]
PROGRAMS = [ROOT / "Makefile", *(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)]

GNU = [
    r"\bcp --",
    r"\bdate (-d|--date)",
    r"\bfind\b.* -printf",
    r"\bgrep -\w*P",
    r"\bhead -n -",
    r"\binstall .*/dev/stdin",
    r"\breadlink -f",
    r"\bsed -i(?![.])",
    r"\bsort -\w*V",
    r"\bstat -c",
    r"\bstatus=none",
    r"\bxargs (-r|--no-run-if-empty)",
    r"\bbase64 -\w*w",
    r"(^|[|;&(]) *(nproc|realpath|sha256sum|tac|timeout)\b",
]
"""Programs and options that a Mac does not have."""

ZSH = [r"\brm -\w*f\w* [^|;&'\"]*[*]"]
"""A pattern without a match is an error in zsh, so `rm -f` with one fails if there is nothing to remove."""

BASH = [
    r"\b(mapfile|readarray|coproc|BASHPID|EPOCHSECONDS|EPOCHREALTIME)\b",
    r"\b(declare|local|typeset) -\w*[An]",
    r"\bwait -n",
    r"\$\{\w+(\[[@*]\])?[,^@]",
    r"&>>|\|&",
    r"%\([^)]*\)T",
]
"""Features that bash got after 3.2."""


def refused(text: str, patterns: list[str]) -> list[str]:
    return [found[0] for pattern in patterns for found in re.finditer(pattern, text, re.MULTILINE)]


def commands(document: Path) -> list[str]:
    """The commands of a document, each with the lines that go on with it."""
    found: list[str] = []
    for kind, block in re.findall(r"^ *```(sh|console)\n(.*?)^ *```", document.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "sh":
            found += re.split(r"(?<!\\)\n", block.strip())
        else:
            found += [re.sub("^> ", "", text, flags=re.M) for text in re.findall(r"^[$] (.*(?:\n> .*)*)", block, re.M)]
    return found


COMMANDS = [pytest.param(text, id=f"{path.name}: {text[:40]}") for path in DOCUMENTS for text in commands(path)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_document_runs_in_zsh_with_the_tools_of_a_mac(command: str) -> None:
    assert refused(command, GNU + ZSH) == []
    # Unless it is told otherwise, zsh takes a comment that is typed for words of the command.
    assert shlex.split(command, comments=True) == shlex.split(command)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_that_a_reader_starts_runs_with_the_bash_and_the_tools_of_a_mac(program: Path) -> None:
    assert refused(program.read_text(), GNU + BASH) == []


@pytest.mark.parametrize(
    "command",
    [
        "rm -f build/cosign.* && true",
        "dd of=x bs=1 conv=notrunc status=none",
        "sudo install -m 0400 /dev/stdin secrets/key",
        "sed -i s/a/b/ file",
        "true | timeout 3 cat",
        "mapfile -t lines",
        "echo ${name^^}",
        'printf "%(%s)T" -1',
        "declare -A names",
        "make &>>log",
    ],
)
def test_what_a_mac_does_not_have_is_found(command: str) -> None:
    assert refused(command, GNU + ZSH + BASH) != []
