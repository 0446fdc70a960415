"""Look for sentences that need a second reading, in documents, comments and docstrings: `make check` does.

proselint applies those of its own rules that GENERAL names, and the RULES of this project. Code is blanked out first,
so that a finding keeps its line.
"""

import argparse
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from proselint import checks
from proselint.config import Config
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, CheckResult
from proselint.tools import LintFile

# The checks of proselint that suit technical English.
GENERAL = ["redundancy", "malapropisms", "nonwords", "misc.apologizing", "misc.metadiscourse"]
START = "¶"  # takes the place of what opens a paragraph: a comment's sign, a list's dash, a cell's bar
HEADING = "·"  # so that a title is not taken for a sentence
SENTENCE = rf"(?:{START}\s*|\n[ \t]*\n\s*|[.!:][\"')*]*\s+)\**"
RULES = {
    "relative": (
        SENTENCE + r"(?P<found>(?:What|Who|Whoever|Whatever|Where|Wherever)\b)(?=[^.!?¶:]*[.!])",
        "a sentence begins with a relative clause: begin with its subject",
    ),
    "negation": (
        r"(?<!\bthere\s)\b(?P<found>(?:is|are|was|were)\s+no\s+(?!longer\b|more\b|less\b|other\b)[a-z]+)",
        "write `is not an X`",
    ),
    "filler": (
        r"(?P<found>\b(?:simply|basically|actually|obviously|really|very|of course|in order to|note that|quite|merely|"
        r"needless to say|as everywhere)\b)",
        "filler: leave it out",
    ),
    "pause": (r"(?P<found>\b(?:left|leave|leaves)\s+alone\b|\bpassed\s+over\b)", "the word is `pause`"),
    "time left": (r"(?P<found>\bpatience\b|\btime\s+budget\b)", "the words are `time left` or `limit`"),
    "riddle": (
        r"(?P<found>\bno\s+aim\s+in\b|\bnobody\s+mends\b|\btakes?\s+(?:it|that)\s+for\b|\bone\s+too\s+many\b|"
        r"\bof\s+ours\b|\bby\s+now\s+stays\b|\bthat\s+there\s+(?:is|are)\s+not\b|\bmade\s+anew\b)",
        "a riddle: say it plainly",
    ),
}


def rule(name: str, pattern: str, message: str) -> Check:
    """A check of proselint that finds the group `found` of `pattern`."""
    compiled = re.compile(pattern, re.IGNORECASE if name != "relative" else 0)

    def find(text: str, check: Check) -> Iterator[CheckResult]:
        for match in compiled.finditer(text):
            yield CheckResult(check.path, check.message, match.span("found"), None)

    return Check(check_type=find, path=f"geoip.{name}", message=message)


def blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def markdown(text: str) -> str:
    """The prose of a Markdown document: without code, markers, the targets of links and tags."""
    code = r"^( *)```.*?^ *```|`+[^`]+`+|<!--.*?-->|(?<=\])\([^)]*\)|<[^>\n]+>|https?://\S+"
    text = re.sub(code, lambda match: blank(match[0]), text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^#+ (\d+\.)?", lambda match: HEADING + " " * (len(match[0]) - 1), text, flags=re.MULTILINE)
    return re.sub(r"\||^( *)(?:[-*>]|\d+\.)(?= )", lambda match: f"{match[1] or ''}{START}", text, flags=re.MULTILINE)


def python(text: str) -> str:
    """Comments and docstrings of a module."""
    lines = text.splitlines(keepends=True)
    prose = [blank(line) for line in lines]
    before = (-1, -1)  # line and column of the comment above
    fresh = True  # a statement begins here, so a string is a docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            sign = " " if before == (row - 1, column) else START
            prose[row - 1] = f"{' ' * column}{sign}{token.string[1:]}\n"
            before = (row, column)
        elif token.type == tokenize.STRING and fresh:
            shown = re.sub(r"`+[^`]+`+", lambda match: blank(match[0]), token.string.replace('"""', "   "))
            for number, line in enumerate(shown.splitlines(), row):
                prose[number - 1] = f"{' ' * (column if number == row else 0)}{line}\n"
            prose[row - 1] = f"{' ' * column}{START}{prose[row - 1][column + 1 :]}"
        if token.type not in {tokenize.COMMENT, tokenize.NL}:
            fresh = token.type in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    return re.sub(r"`+[^`\n]+`+", lambda match: blank(match[0]), "".join(prose))


def comments(text: str) -> str:
    """Comments, and the help of targets, of a Makefile, a Dockerfile, a shell script or YAML."""
    prose, above = "", False
    for line in text.splitlines():
        match = re.match(r"(\s*|.*?\s)(##?)(?=\s)", line)
        sign = " " if above else START
        prose += f"{' ' * match.end(1)}{sign}{line[match.start(2) + 1 :].replace('#', ' ')}\n" if match else "\n"
        above = match is not None and not match[1].strip()
    return re.sub(r"`+[^`\n]+`+", lambda match: blank(match[0]), prose)


READERS = {".md": markdown, ".py": python}


def findings(name: str, text: str) -> Iterator[str]:
    """The findings in the file `name` that holds `text`, each as `name:line: words: message`."""
    prose = READERS.get(Path(name).suffix, comments)(text)
    if not prose.strip():
        return
    enabled = {"geoip": True} | dict.fromkeys(GENERAL, True)
    for result in LintFile(name, prose).lint(Config(max_errors=1000, checks=enabled)):
        line = result.pos[0]
        begin, end = result.check_result.span
        found = " ".join(f"\n{prose}\n"[begin:end].split())
        yield f"{name}:{line}: {found}: {result.check_result.message}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.prose", description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+", help="documents, modules, Dockerfiles, Makefiles, scripts")
    registry = CheckRegistry()
    registry.register_many(checks.__register__)
    registry.register_many(tuple(rule(name, *parts) for name, parts in RULES.items()))
    lines = (line for name in parser.parse_args().files for line in findings(name, Path(name).read_text()))
    found = list(dict.fromkeys(lines))  # proselint has some phrases in two of its checks
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
