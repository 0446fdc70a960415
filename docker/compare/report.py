"""The comparison: its figures, their JSON, and how a reader sees them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from measures import MEASURES

UNITS = {measure.name: measure.unit for measure in MEASURES}


@dataclass
class Row:
    """An image: its figures by the names of MEASURES, and by the same names why one is missing."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Comparison:
    measured: str  # ISO 8601, UTC
    machine: str
    stand_ins: list[str]  # base images that are not the published ones
    images: list[Row]


def loads(text: str) -> Comparison:
    """Read the text of `dumps`; ValueError, KeyError or TypeError for anything else."""
    data = json.loads(text)
    return Comparison(**data | {"images": [Row(**row) for row in data["images"]]})


def dumps(comparison: Comparison) -> str:
    return json.dumps(asdict(comparison), indent=1, ensure_ascii=False) + "\n"


def _megabytes(size: int) -> str:
    """Three significant digits, in MB of 10^6 bytes as Docker shows them."""
    value = size / 1e6
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} MB" if size >= 10_000 else f"{size / 1e3:.1f} kB"


FORMATS: dict[str, Callable[[Any], str]] = {
    "MB": _megabytes,
    "s": lambda value: f"{value:.2f} s",
    "count": lambda value: f"{value:,}",
    "text": str,
    "names": lambda value: ", ".join(value) or "none",
    "severities": lambda value: f"{value['critical']:,} critical, {value['high']:,} high, {value['all']:,} in all",
}


def cell(row: Row, name: str) -> str:
    """A figure as text."""
    if name in row.figures:
        return FORMATS[UNITS[name]](row.figures[name])
    return "not scanned" if name == "vulnerabilities" else "-"


def table(comparison: Comparison, names: list[str]) -> str:
    """A Markdown table of these measures, its columns aligned. ValueError: there is no such measure."""
    lines: list[list[str]] = [[] for _ in range(len(comparison.images) + 2)]
    for name in ["image", *names]:
        if name not in {"image", *UNITS}:
            raise ValueError(f"there is no measure {name!r}: take some of {', '.join(UNITS)}")
        cells = [f"`{row.name}`" if name == "image" else cell(row, name) for row in comparison.images]
        width = max(map(len, [name, "----", *cells]))
        number = UNITS.get(name) in ("MB", "s", "count")
        rule = "-" * (width - 1) + ":" if number else "-" * width
        for line, text in zip(lines, [name, rule, *cells], strict=True):
            line.append(text.rjust(width) if number else text.ljust(width))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def notes(comparison: Comparison) -> Iterator[str]:
    """Return why figures cannot be compared, and why some are missing."""
    pythons: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for row in comparison.images:
        if "Python" in row.figures:
            pythons.setdefault(row.figures["Python"], []).append(row.name)
        for reason in dict.fromkeys(row.problems.values()):
            names = ", ".join(name for name in row.problems if row.problems[name] == reason)
            missing.setdefault(f"no figure of {names}: {reason}" if row.figures else reason, []).append(row.name)
    if len(pythons) > 1:
        yield "The Pythons differ: " + "; ".join(f"{python} in {', '.join(names)}" for python, names in pythons.items())
    if comparison.stand_ins:
        yield f"Local stand-ins, so that figures of the published images differ: {', '.join(comparison.stand_ins)}"
    yield from (f"{', '.join(images)}: {reason}" for reason, images in missing.items())
    scans = [row.figures["vulnerabilities"] for row in comparison.images if "vulnerabilities" in row.figures]
    yield from dict.fromkeys(f"Vulnerabilities by {scan['scanner']}" for scan in scans)
    yield f"Measured {comparison.measured}, with {comparison.machine}"
