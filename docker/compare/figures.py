"""Write figures of the comparison into documents, or check that those in them are the current ones.

    python docker/compare/figures.py COMPARISON [--check] DOCUMENT…

COMPARISON is docs/comparison.json. In a document an HTML comment says which figure follows, by image and column of
docs/comparison.md. With two images it is how many times the second one's figure the first one's is:

    <!-- figure: scratch, compressed -->11.3 MB<!-- / -->
    <!-- figure: buster-single / scratch, unpacked -->8.6<!-- / -->

and another says which columns the table of all images below has, up to the comment that ends it:

    <!-- comparison: unpacked, shell -->
    <!-- /comparison -->

Below the table a line says so where it was measured on stand-ins for the base images.

A line must not begin with a figure: Markdown would take the whole line for HTML. Exit status: 0; 1 where --check found
figures that are not current, or a document asks for a figure that there is not.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import comparison
import report
from comparison import Comparison, Row

FIGURE = re.compile(r"(?P<begin><!-- figure: (?P<images>[^,]+), (?P<column>[^>]+) -->)[^<]*(?P<end><!-- / -->)")
TABLE = re.compile(
    r"(?P<begin><!-- comparison: (?P<columns>[^>]+) -->\n)(.*?\n)??(?P<end><!-- /comparison -->)", re.DOTALL
)
MARKER = re.compile(r"<!-- (figure|comparison)\b.*")
T = TypeVar("T")
STAND_INS = "*Measured on local stand-ins for the base images: with the published ones figures differ.*"
COLUMNS = {column.title: column for _, columns in report.TABLES for column in columns}
# The attributes behind the columns that can be divided.
NUMBERS = {
    "unpacked": "unpacked",
    "compressed": "compressed",
    "second pull": "second_pull",
    "files": "files",
    "executables": "executables",
    "OS packages": "os_packages",
    "first answer": "start",
    "memory": "memory",
    "cold build": "cold_build",
    "build after a change": "rebuild",
}


def render(text: str, measured: Comparison) -> str:
    """The document with its figures filled in. ValueError, in one line: there is no such figure."""
    rows = {row.name: row for row in measured.images}

    def figure(match: re.Match[str]) -> str:
        if match.start() == 0 or text[match.start() - 1] == "\n":
            raise ValueError(f"a line begins with {match['begin']}")
        first, _, second = match["images"].partition(" / ")
        value = _times(rows, first, second, match["column"]) if second else _cell(rows, first, match["column"])
        return f"{match['begin']}{value}{match['end']}"

    def table(match: re.Match[str]) -> str:
        titles = match["columns"].split(", ")
        lines = [
            ["image", *titles],
            ["---", *("---:" if _known(COLUMNS, title).number else "---" for title in titles)],
            *([f"`{name}`", *(_cell(rows, name, title) for title in titles)] for name in rows),
        ]
        body = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        if report.on_stand_ins(measured):
            body += f"\n{STAND_INS}\n"
        return f"{match['begin']}{body}{match['end']}"

    for found in MARKER.finditer(text):
        if not (FIGURE.match(text, found.start()) or TABLE.match(text, found.start())):
            raise ValueError(f"this marker cannot be read: {found[0]}")
    return TABLE.sub(table, FIGURE.sub(figure, text))


def _cell(rows: dict[str, Row], image: str, title: str) -> str:
    value = _known(COLUMNS, title).cell(_known(rows, image))
    if value is None:
        raise ValueError(f"{title} of {image} was not measured")
    return value


def _times(rows: dict[str, Row], first: str, second: str, title: str) -> str:
    name = _known(NUMBERS, title)
    dividend, divisor = (getattr(_known(rows, image), name) for image in (first, second))
    if not dividend or not divisor:
        raise ValueError(f"{title} of {first} or {second} was not measured, or is 0")
    return f"{dividend / divisor:.2g}" if dividend < 100 * divisor else f"{dividend / divisor:.0f}"


def _known(table: Mapping[str, T], name: str) -> T:
    if name not in table:
        raise ValueError(f"there is no {name!r}: {', '.join(table)}")
    return table[name]


def main() -> int:
    parser = argparse.ArgumentParser(prog="figures", description="Write figures of the comparison into documents.")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("documents", nargs="+", type=Path, metavar="DOCUMENT")
    parser.add_argument("--check", action="store_true", help="write nothing: name the documents that are not current")
    options = parser.parse_args()
    try:
        measured = comparison.loads(options.comparison.read_text())
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"figures: {options.comparison} is no comparison: {error}", file=sys.stderr)
        return 1
    status = 0
    for document in options.documents:
        text = document.read_text()
        try:
            rendered = render(text, measured)
        except ValueError as error:
            print(f"figures: {document}: {error}", file=sys.stderr)
            status = 1
            continue
        if rendered == text:
            continue
        if options.check:
            print(f"figures: {document} is not what {options.comparison} says: make figures", file=sys.stderr)
            status = 1
        else:
            document.write_text(rendered)
    return status


if __name__ == "__main__":
    sys.exit(main())
