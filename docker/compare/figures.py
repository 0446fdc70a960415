"""Write what was measured, and how the Dockerfiles differ, into documents; or check that they have it.

    python docker/compare/figures.py docs/comparison.json [--check] DOCUMENT…

In a document, what is written stands between two comments. A line must not begin with a figure: Markdown would take
the line for HTML. Exit status: 0; 1 if a document is not current (--check), or if there is no such figure.

    <!-- figure: scratch, compressed -->11.3 MB<!-- / -->
    <!-- figure: buster-single / scratch, unpacked -->8.6<!-- / -->
    <!-- comparison: unpacked, shell -->…<!-- /comparison -->
    <!-- notes -->…<!-- /notes -->
    <!-- diff: buster-single, buster -->…<!-- /diff -->
"""

import argparse
import difflib
import re
import sys
from pathlib import Path

import building
import report
from report import Comparison

KINDS = "(figure|comparison|diff|notes)"
OPENING = re.compile(rf"<!-- {KINDS}\b.*")
MARKER = re.compile(
    rf"(?P<begin><!-- (?P<kind>{KINDS})(: (?P<about>[^>]+))? -->)[^\0]*?(?P<end><!-- /(?:{KINDS}|) ?-->)"
)
STAND_INS = "\n*Measured on local stand-ins for the base images: figures of the published ones differ.*\n"


def render(text: str, comparison: Comparison) -> str:
    """The document with each marker filled in. ValueError, in one line, if a figure does not exist."""
    for opening in OPENING.finditer(text):
        if not MARKER.match(text, opening.start()):
            raise ValueError(f"this marker cannot be read: {opening[0]}")
        if opening[1] == "figure" and text[: opening.start()][-1:] in ("", "\n"):
            raise ValueError(f"a line begins with {opening[0]}: put a word before it")
    return MARKER.sub(lambda marker: f"{marker['begin']}{_content(marker, comparison)}{marker['end']}", text)


def _content(marker: re.Match[str], comparison: Comparison) -> str:
    words = (marker["about"] or "").split(", ")
    if marker["kind"] == "notes":
        return "\n" + "".join(f"- {note}.\n" for note in report.notes(comparison))
    if marker["kind"] == "comparison":
        return f"\n{report.table(comparison, words)}{STAND_INS if comparison.stand_ins else ''}"
    if len(words) != 2:
        raise ValueError(f"this marker cannot be read: {marker['begin']}")
    return _figure(comparison, *words) if marker["kind"] == "figure" else _difference(*words)


def _figure(comparison: Comparison, images: str, name: str) -> str:
    rows = {row.name: row for row in comparison.images}
    names = images.split(" / ")
    for image in names:
        if image not in rows or name not in rows[image].figures:
            raise ValueError(f"there is no figure of {name} of {image}")
    if len(names) == 1:
        return report.cell(rows[images], name)
    dividend, divisor = (rows[image].figures[name] for image in names)
    if not isinstance(dividend, int | float) or not dividend or not divisor:
        raise ValueError(f"{name} of {names[0]} cannot be divided by that of {names[1]}")
    return f"{dividend / divisor:.2g}" if dividend < 100 * divisor else f"{dividend / divisor:.0f}"


def _difference(first: str, second: str) -> str:
    """The output of `diff` for two Dockerfiles, in a block of Markdown. OSError if one does not exist."""
    old, new = (building.dockerfile(name).read_text().splitlines(keepends=True) for name in (first, second))
    lines = difflib.unified_diff(old, new, f"docker/{first}.Dockerfile", f"docker/{second}.Dockerfile", n=1)
    return f"\n\n```diff\n{''.join(lines)}```\n\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="figures", description="Write what was measured into documents.")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("documents", nargs="+", type=Path, metavar="DOCUMENT")
    parser.add_argument("--check", action="store_true", help="write nothing: name the documents that are not current")
    options = parser.parse_args()
    status = 0
    for document in options.documents:
        try:
            before = document.read_text()
            after = render(before, report.loads(options.comparison.read_text()))
        except (OSError, KeyError, TypeError, ValueError) as error:
            print(f"figures: {document}, from {options.comparison}: {error}", file=sys.stderr)
            status = 1
            continue
        if not options.check:
            document.write_text(after)
        elif after != before:
            print(f"figures: {document} is not what {options.comparison} says: make figures", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
