"""The comparison as a reader sees it: tables in a terminal, and docs/comparison.md."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich import box
from rich.bar import Bar
from rich.console import Console, ConsoleRenderable
from rich.table import Table
from rich.text import Text

from comparison import Base, Comparison, Row
from running import CONNECTIONS, REQUESTS
from scanning import Report, count

MISSING = "-"
NOT_BUILT = "not built"
NOT_SCANNED = "not scanned"
SCAN_FAILED = "scan failed"


class Column(NamedTuple):
    title: str
    cell: Callable[[Row], str | None]
    number: bool = True


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _megabytes(size: float | None) -> str | None:
    """A size with three significant digits, in MB of 10^6 bytes as Docker shows them."""
    if size is None:
        return None
    value = size / 1e6
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} MB" if size >= 10_000 else f"{size / 1e3:.1f} kB"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.{2 if value < 10 else 1}f} s"


def _names(names: list[str] | None) -> str | None:
    return None if names is None else ", ".join(names) or "none"


def _vulnerabilities(row: Row) -> str:
    found = row.vulnerabilities
    if found is None:
        return NOT_SCANNED
    if found.counts is None:
        return SCAN_FAILED
    worst = ", ".join(f"{found.counts[name]:,} {name}" for name in ("critical", "high"))
    return f"{sum(found.counts.values()):,} ({worst})"


def _user(row: Row) -> str | None:
    return None if row.user is None else row.user or "root"


SIZE = (
    Column("unpacked", lambda row: _megabytes(row.unpacked)),
    Column("compressed", lambda row: _megabytes(row.compressed)),
    Column("second pull", lambda row: _megabytes(row.second_pull)),
    Column("layers", lambda row: _count(row.layers)),
)
CONTENTS = (
    Column("files", lambda row: _count(row.files)),
    Column("executables", lambda row: _count(row.executables)),
    Column("setuid", lambda row: _count(row.setuid_files)),
    Column("libraries", lambda row: _count(row.shared_libraries)),
    Column("OS packages", lambda row: _count(row.os_packages)),
    Column("Python packages", lambda row: _count(row.python_packages)),
)
ACCESS = (
    Column("user", _user, number=False),
    Column("shell", lambda row: _names(row.shells), number=False),
    Column("package manager", lambda row: _names(row.package_managers), number=False),
    Column("vulnerabilities", _vulnerabilities, number=False),
)
WORK = (
    Column("first answer", lambda row: _seconds(row.start)),
    Column("memory", lambda row: _megabytes(row.memory)),
    Column("cold build", lambda row: _seconds(row.cold_build)),
    Column("build after a change", lambda row: _seconds(row.rebuild)),
)
TABLES = (("Size", SIZE), ("Contents", CONTENTS), ("Access", ACCESS), ("At work", WORK))


def ratio(row: Row, first: Row) -> str | None:
    """The image's size by that of the first: 1/9 of it, or 1.2 times."""
    if not row.unpacked or not first.unpacked or row is first:
        return None
    share = row.unpacked / first.unpacked
    return f"÷ {1 / share:.1f}" if share <= 1 else f"× {share:.1f}"  # noqa: RUF001 (a times sign it is)


def show(comparison: Comparison, console: Console) -> None:
    """The tables, in a terminal of 80 columns or more."""
    largest = max((row.unpacked or 0 for row in comparison.images), default=0)
    for title, columns in TABLES:
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
        table.pad_edge, table.expand = False, columns is SIZE
        table.add_column("image", no_wrap=True)
        if columns is SIZE:
            table.add_column("", ratio=1, min_width=8)
        for column in columns:
            table.add_column(column.title.replace(" ", "\n", 1), justify="right" if column.number else "left")
            if column.title == "unpacked":
                table.add_column("", justify="right", no_wrap=True)
        for row in comparison.images:
            cells: list[ConsoleRenderable | str] = [row.name]
            if row.id is None:
                table.add_row(row.name, Text(NOT_BUILT, style="yellow"))
                continue
            if columns is SIZE:
                cells.append(Bar(largest, 0, row.unpacked or 0, color="cyan"))
            for column in columns:
                cells.append(column.cell(row) or MISSING)
                if column.title == "unpacked":
                    cells.append(ratio(row, comparison.images[0]) or "")
            table.add_row(*cells)
        console.print(table, "")
    lines = [
        *notes(comparison),
        *(f"{base.name}: {origin(base)}" for base in comparison.bases if not base.published),
        f"Measured {comparison.measured}, on {_machine(comparison)}",
    ]
    for line in lines:
        console.print(f"- {line}", highlight=False, markup=False)


def notes(comparison: Comparison) -> Iterator[str]:
    """What a reader has to know of the figures: problems first."""
    for row in comparison.images:
        for problem in row.problems:
            yield f"{row.name}: {problem}"
        if row.vulnerabilities and row.vulnerabilities.failure:
            yield f"{row.name}: {SCAN_FAILED}: {row.vulnerabilities.failure}"
        if row.current is False:
            yield f"{row.name}: its Dockerfile or the code gives other files by now: make image-{row.name}"
    scanner = comparison.scanner
    if scanner:
        yield f"Vulnerabilities: {scanner.name} {scanner.version or ''}, {database(scanner.database)}"
    elif not any(row.vulnerabilities for row in comparison.images):
        yield "Vulnerabilities: no scanner was there (snyk, trivy, grype or docker scout)"
    machine = comparison.machine
    if machine.load > machine.cpus:
        yield f"{machine.load:.1f} processes wanted {machine.cpus} CPUs before: times are those of a busy machine"


def _machine(comparison: Comparison) -> str:
    machine = comparison.machine
    return (
        f"{machine.cpus} CPUs ({machine.architecture}) with {machine.memory / 2**30:.0f} GiB of memory, "
        f"{machine.system}, Linux {machine.kernel}, Docker {machine.docker}"
    )


def on_stand_ins(comparison: Comparison) -> bool:
    """Whether a base was not the published image."""
    return any(base.published is False for base in comparison.bases)


def database(made: str | None) -> str:
    return f"database of {made}" if made else "date of its database unknown"


def origin(base: Base) -> str:
    if base.id is None:
        return "not there"
    if base.published is None:
        return "the registry could not be asked whether it is the published image"
    return base.digests[0] if base.published else "local stand-in, not the published image"


EXPLANATIONS = f"""\
- **unpacked**: bytes of all files in all layers, as `du` counts them. `docker image inspect` says the same but for the
  few bytes of symbolic links. 1 MB is 10^6 bytes.
- **compressed**: each layer gzipped (level 6), as a registry holds it: the first pull.
- **second pull**: the compressed layers that differ after one line of `app/` was changed.
- **executables**: files with an execute bit, shared libraries aside. Links are not counted: Alpine's busybox is one
  file with three hundred names.
- **setuid**: files that run with the rights of their owner or group.
- **OS packages, Python packages**: as syft finds them, by the records of dpkg and apk and by `*.dist-info`.
- **shell, package manager**: what `docker exec` could run, by trying each. What busybox has of a name counts as well:
  `dpkg` and `rpm` beside Alpine's `apk`.
- **first answer**: from the start of the process to the first answer from the sample of places in the image.
- **memory**: what the processes hold after {REQUESTS:,} requests on {CONNECTIONS} connections, without files that the
  kernel can drop. This and the first answer are medians; the images took turns.
- **cold build**: `--no-cache`, with the base images and pip's downloads there. **Build after a change**: of one line of
  `app/`.
"""


def markdown(comparison: Comparison) -> str:
    """docs/comparison.md: tables, explanations, on what it was measured and how to do so again."""
    lines = [
        "# The six images, measured",
        "",
        "<!-- Written by `make compare-docs` from comparison.json: change docker/compare, not this. -->",
        "",
        "![Size, packages and executables of each image](comparison.svg)",
        "",
    ]
    for title, columns in TABLES:
        lines += [f"## {title}", ""]
        titles = [column.title for column in columns]
        if columns is SIZE:
            titles.insert(1, f"to {comparison.images[0].name}")
        lines.append("| image | " + " | ".join(titles) + " |")
        marks = ["---:" if column.number else "---" for column in columns]
        lines.append("| --- | " + " | ".join(["---:"] * (columns is SIZE) + marks) + " |")
        for row in comparison.images:
            cells = [column.cell(row) or MISSING for column in columns]
            if columns is SIZE:
                cells.insert(1, ratio(row, comparison.images[0]) or "")
            if row.id is None:
                cells = [NOT_BUILT, *[""] * (len(titles) - 1)]
            lines.append(f"| `{row.name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    lines += [
        EXPLANATIONS,
        "## Measured on",
        "",
        f"{comparison.measured}, with syft {comparison.syft or '(missing)'}, on {_machine(comparison)}. "
        "`make images compare-docs` does it again and writes this page; `make compare` prints the tables alone, and "
        "[comparison.json](comparison.json) has every figure.",
        "",
        *(f"- {line}" for line in notes(comparison)),
    ]
    lines += ["", "| base image | image ID | origin |", "| --- | --- | --- |"]
    lines += [
        f"| `{base.name}` | {f'`{base.id[:19]}`' if base.id else ''} | {origin(base)} |" for base in comparison.bases
    ]
    if on_stand_ins(comparison):
        lines += [
            "",
            "A size or a count on a stand-in is one of the stand-in: with the published images figures differ.",
        ]
    return "\n".join(lines) + "\n"


def show_findings(name: str, scanner: str, found: Report, console: Console) -> None:
    """The vulnerabilities of one image, the worst first."""
    counts = count(found.findings)
    console.print(
        f"{name}: {', '.join(f'{number:,} {severity}' for severity, number in counts.items())} "
        f"({scanner} {found.version or ''}, {database(found.database)})",
        highlight=False,
    )
    if found.findings:
        table = Table("severity", "package", "version", "vulnerability", box=box.SIMPLE_HEAD)
        for finding in found.findings:
            table.add_row(finding.severity, finding.package, finding.version, finding.id)
        console.print(table)
