"""Measure the images that are built, side by side: `make compare`, or `python docker/compare NAME…`.

The tables go to standard output, what is under way to standard error. Exit status: 0; 1 where something could not be
measured (the row says what), or nothing (one line says why); 130 when interrupted, and then nothing stays behind.
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn
from uuid import uuid4

import docker
import requests
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image
from rich.console import Console

import archive
import building
import comparison
import report
import running
import scanning
from comparison import Comparison, Row
from engine import NoDockerError, cleaned_up, connect

progress = Console(stderr=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare", description="Measure the images that are built, side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"images (default: {' '.join(building.IMAGES)})")
    parser.add_argument("--repository", default="geoip", help="what stands before the colon (default: %(default)s)")
    parser.add_argument(
        "--starts", type=int, default=5, help="how often each is started; 0: never (default: %(default)s)"
    )
    parser.add_argument("--build", default="docker build", help="the command that builds (default: %(default)s)")
    parser.add_argument("--no-build", action="store_true", help="no build times, and no second pull")
    parser.add_argument(
        "--scanner", choices=[scanner.name for scanner in scanning.SCANNERS], help="default: what is there"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write comparison.json, .md and .svg as well")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: take this JSON")
    parser.add_argument("--scan", action="store_true", help="measure nothing: list the vulnerabilities of each NAME")
    options = parser.parse_args(arguments)
    if options.starts < 0:
        parser.error("argument --starts: 0 or more")
    names = options.names or list(building.IMAGES)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        if options.docs:
            options.docs.mkdir(parents=True, exist_ok=True)  # before some minutes are spent
        if options.scan:
            return scan(names, options)
        result = read(options.read) if options.read else measure(names, options)
        write(result, options)
    except (NoDockerError, ReadError, scanning.NoScannerError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except (DockerException, requests.RequestException) as error:
        print(f"compare: Docker failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"compare: {error}", file=sys.stderr)
        # Otherwise Python tries once more to write what standard output did not take.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted", file=sys.stderr)
        return 130
    failed = [row for row in result.images if row.problems or (row.vulnerabilities and row.vulnerabilities.failure)]
    return 1 if failed else 0


class ReadError(Exception):
    """A file does not hold a comparison; one line says why."""


def read(path: Path) -> Comparison:
    """What was measured before; ReadError if the file is not there, or holds something else."""
    try:
        return comparison.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ReadError(f"{path} cannot be read: {error}") from None


def write(result: Comparison, options: argparse.Namespace) -> None:
    """Print the comparison, and write the documents if they are asked for; OSError if there is no place."""
    if options.json:
        print(result.dumps(), end="", flush=True)
    else:
        report.show(result, Console())
    if options.docs:
        import chart  # not before: matplotlib takes a second

        for suffix, text in (("json", result.dumps()), ("md", report.markdown(result)), ("svg", chart.svg(result))):
            (options.docs / f"comparison.{suffix}").write_text(text, encoding="utf-8")


def measure(names: list[str], options: argparse.Namespace) -> Comparison:
    """Measure what is built; what cannot be is a problem of its row. NoDockerError, NoScannerError: it is not there."""
    engine = connect()
    run = uuid4().hex[:12]
    scanner = scanning.installed(options.scanner)
    machine = engine.info()
    with step("base images"):
        bases = building.bases(engine, names, pull=not options.no_build)
    result = Comparison(
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=comparison.Machine(
            cpus=machine["NCPU"],
            memory=machine["MemTotal"],
            architecture=machine["Architecture"],
            system=machine["OperatingSystem"],
            kernel=machine["KernelVersion"],
            docker=machine["ServerVersion"],
            load=round(os.getloadavg()[0], 1),
        ),
        syft=None,
        scanner=None,
        bases=bases,
        images=[Row(name, f"{options.repository}:{name}") for name in names],
    )
    images: list[tuple[Row, Image]] = []
    for row in result.images:
        try:
            images.append((row, engine.images.get(row.image)))
        except ImageNotFound:
            row.problems.append(f"not built: make image-{row.name}")
    layers: archive.Layers = {}
    with cleaned_up(engine, run):
        for row, image in images:
            row.id, row.user = image.id, image.attrs["Config"]["User"]
            row.revision = (image.labels or {}).get("org.opencontainers.image.revision") or None
            with archive.saved(image) as path:
                with step(f"{row.name}: layers and files"):
                    contents = archive.contents(archive.read_layers(image, path, layers))
                    row.layers = len(archive.digests(image))
                    row.unpacked, row.compressed = contents.unpacked, contents.compressed
                    row.files, row.executables = contents.files, contents.executables
                    row.setuid_files, row.shared_libraries = contents.setuid_files, contents.shared_libraries
                with step(f"{row.name}: packages"):
                    result.syft = _count_packages(row, path) or result.syft
                if scanner:
                    with step(f"{row.name}: vulnerabilities, by {scanner.name}"):
                        result.scanner = _count_vulnerabilities(row, path, scanner) or result.scanner
        # The images take turns, so that what else the machine does meets them all.
        for turn in range(options.starts):
            with step(f"start {turn + 1} of {options.starts}, each with {running.REQUESTS:,} requests"):
                for row, image in images:
                    _run(engine, row, image, run, first=turn == 0)
        if not options.no_build:
            for row, image in images:
                with step(f"{row.name}: built cold, and after a change"):
                    _build(engine, row, image, shlex.split(options.build), run, layers)
    return result


def scan(names: list[str], options: argparse.Namespace) -> int:
    """List what the scanner finds in each image. 0, or 1 if something could not be scanned; NoScannerError."""
    engine = connect()
    scanner = scanning.installed(options.scanner)
    if scanner is None:
        raise scanning.NoScannerError("no scanner is there: install snyk, trivy, grype or docker scout")
    status = 0
    for name in names:
        try:
            image = engine.images.get(f"{options.repository}:{name}")
            with step(f"{name}: vulnerabilities, by {scanner.name}"), archive.saved(image) as path:
                found = scanner.scan(path)
        except (ImageNotFound, scanning.ScanError) as error:
            reason = (
                f"scan failed: {error}" if isinstance(error, scanning.ScanError) else f"not built: make image-{name}"
            )
            print(f"compare: {name}: {reason}", file=sys.stderr)
            status = 1
            continue
        report.show_findings(name, scanner.name, found, Console())
    return status


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is under way, and afterwards how long it took."""
    started = time.monotonic()
    with progress.status(text):
        yield
    progress.print(f"{text}  [dim]{time.monotonic() - started:.1f} s", highlight=False)


def _count_packages(row: Row, path: Path) -> str | None:
    try:
        found, version = scanning.packages(path)
    except scanning.ScanError as error:
        row.problems.append(f"syft failed: {error}")
        return None
    row.os_packages = sum(package.kind in scanning.OS_PACKAGES for package in found)
    row.python_packages = sum(package.kind == "python" for package in found)
    return version


def _count_vulnerabilities(row: Row, path: Path, scanner: scanning.Scanner) -> comparison.Scanner | None:
    try:
        found = scanner.scan(path)
    except scanning.ScanError as error:
        row.vulnerabilities = comparison.Vulnerabilities(None, str(error))
        return None
    row.vulnerabilities = comparison.Vulnerabilities(scanning.count(found.findings))
    return comparison.Scanner(scanner.name, found.version, found.database)


def _run(engine: docker.DockerClient, row: Row, image: Image, run: str, *, first: bool) -> None:
    """Start the image once more. What failed the first time is not tried again."""
    if not first and not row.starts:
        return
    try:
        with running.container(engine, image, run) as started:
            row.add_sample(*running.measure(started))
            if first:
                row.shells = running.found(started, running.SHELLS)
                row.package_managers = running.found(started, running.PACKAGE_MANAGERS)
    except (running.RunError, DockerException) as error:
        row.problems.append(f"does not run: {error}")


def _build(
    engine: docker.DockerClient, row: Row, image: Image, command: list[str], run: str, layers: archive.Layers
) -> None:
    try:
        with building.built(engine, row.name, command, run) as build:
            row.cold_build, row.rebuild = round(build.cold, 2), round(build.rebuild, 2)
            with archive.saved(build.before) as path:
                before = archive.read_layers(build.before, path, layers)
            with archive.saved(build.changed) as path:
                after = archive.read_layers(build.changed, path, layers)
            unchanged = {*archive.digests(build.before)}
            changed = zip(archive.digests(build.changed), after, strict=True)
            row.second_pull = sum(layer.compressed for digest, layer in changed if digest not in unchanged)
            now = [layers[digest].content for digest in archive.digests(image)]
            row.current = now == [layer.content for layer in before]
    except (building.BuildError, DockerException) as error:
        row.problems.append(f"build failed: {error}")


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
