"""Measure images side by side: `make compare`, or `python docker/compare NAME…`.

Exit status: 0; 1 if something could not be measured, and a line says why; 130 if it was interrupted.
"""

import argparse
import os
import platform
import shlex
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import building
import chart
import report
import scanning
from engine import ENGINE, ToolError, docker
from measures import MEASURES, Subject
from report import Comparison, Row


def main() -> int:
    options = _options()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result, complete = measure(options)
        names = list(report.UNITS)
        print(report.table(result, names[:7]), report.table(result, names[7:]), *report.notes(result), sep="\n")
        if options.docs:
            (options.docs / "comparison.json").write_text(report.dumps(result), encoding="utf-8")
            (options.docs / "comparison.svg").write_text(chart.svg(result), encoding="utf-8")
    except (ToolError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted", file=sys.stderr)
        return 130
    return 0 if complete else 1


def _interrupt(*_: object) -> None:
    # Once: make passes SIGTERM on to a process that already has it, and a second one would leave the container behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def measure(options: argparse.Namespace) -> tuple[Comparison, bool]:
    """Measure the images that are built, and tell whether that is all of them. ToolError without Docker or scanner."""
    version = docker("version", "--format", "{{.Server.Version}}")
    machine = f"{ENGINE} {version} on {os.cpu_count()} CPUs ({platform.machine()})"
    rows = [Row(name) for name in options.names]
    bases = dict.fromkeys(base for row in rows for base in building.bases(row.name) if building.is_stand_in(base))
    result = Comparison(datetime.now(UTC).isoformat(timespec="seconds"), machine, list(bases), rows)
    skipped = dict.fromkeys(options.skip, "it was left out")
    _progress("looking for a scanner")
    scan, reason = scanning.find(options.scanner)
    if scan is None:
        skipped.setdefault("vulnerabilities", reason)
    complete, known = True, dict[str, int]()
    with TemporaryDirectory(prefix="geoip-compare-") as folder:
        subjects = []
        for row in rows:
            image, path = f"{options.repository}:{row.name}", Path(folder, f"{row.name}.tar")
            try:
                docker("save", "--output", path, image)
                subjects.append((row, Subject(row.name, image, path, shlex.split(options.build), scan, known)))
            except ToolError as error:
                complete = _complain(row, {f"{error} (is it built? make image-{row.name})": list(report.UNITS)})
        # The images take turns, so that other work of the machine slows them all alike.
        for turn in range(0 if {"first answer", "memory"} <= skipped.keys() else options.starts):
            for row, subject in subjects:
                _progress(f"{row.name}: start {turn + 1} of {options.starts}")
                subject.start()
        for row, subject in subjects:
            complete = _fill(row, subject, skipped) and complete
    return result, complete


def _fill(row: Row, subject: Subject, skipped: dict[str, str]) -> bool:
    """Take the measures of an image, and tell whether all succeeded."""
    failed: dict[str, list[str]] = {}
    for measure in MEASURES:
        if measure.name in skipped:
            row.problems[measure.name] = skipped[measure.name]
            continue
        _progress(f"{row.name}: {measure.name}")
        try:
            row.figures[measure.name] = measure.of(subject)
        except ToolError as error:
            failed.setdefault(str(error), []).append(measure.name)
    return not failed or _complain(row, failed)


def _complain(row: Row, failed: dict[str, list[str]]) -> bool:
    """Tell why measures failed, a line for each reason."""
    for reason, names in failed.items():
        row.problems |= dict.fromkeys(names, reason)
        what = f"no figure of {', '.join(names)}: " if row.figures else ""
        print(f"compare: {row.name}: {what}{reason}", file=sys.stderr)
    return False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare", description="Measure images side by side.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="images, each with a docker/NAME.Dockerfile")
    parser.add_argument("--repository", default="geoip", help="name before the colon (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=5, help="how often each is started (default: %(default)s)")
    parser.add_argument("--build", default=f"{ENGINE} build", help="command for a build (default: %(default)s)")
    parser.add_argument("--skip", action="append", default=[], choices=list(report.UNITS), help="measure to leave out")
    parser.add_argument("--scanner", choices=list(scanning.SCANNERS), help="default: the first that can be run")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write comparison.json and .svg as well")
    options = parser.parse_args()
    images = sorted(path.stem for path in building.ROOT.glob("docker/*.Dockerfile"))
    for name in options.names:
        if name not in images:
            parser.error(f"there is no image {name}: take some of {', '.join(images)}")
    if options.starts < 1 or not (options.docs or Path()).is_dir():
        parser.error("argument --starts: 1 or more" if options.starts < 1 else f"there is no folder {options.docs}")
    return options


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
