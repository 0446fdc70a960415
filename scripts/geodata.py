"""Fetch the full, current DB-IP Lite files into data/: `make geodata`, or `python -m scripts.geodata`.

DB-IP publishes "IP to City Lite" and "IP to ASN Lite" at the start of each month, CC BY 4.0 with the attribution
"IP Geolocation by DB-IP": https://db-ip.com/db/lite.php. An interrupted download continues where it stopped (RFC 9110,
range requests). A file in use is replaced in one step, after the new one has been checked. Exit status: 0 if both files
are current, 1 if one could not be fetched (the old file is kept), 130 if interrupted.
"""

import argparse
import fcntl
import gzip
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO, NamedTuple

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from app import __version__
from app.sources.databases import Databases

URL = "https://download.db-ip.com/free"
TIMEOUT = 30.0  # seconds for a connection, and for the next bytes
TIME_LIMIT = 3600.0  # seconds for a file, whatever happens
TRIES = 4  # without a byte of progress
BACKOFF = 1.0  # seconds before the second try, doubled before each further one
SIZE_LIMIT = 1_000_000_000  # bytes, packed and unpacked


class Kind(NamedTuple):
    name: str
    field: str  # what a record must have
    least: int  # bytes: far below a full file, and far above a page or a sample


KINDS = (Kind("city", "latitude", 12_000_000), Kind("asn", "isp", 800_000))


class FetchError(Exception):
    """Why a file could not be fetched, in one line."""


class NotThereError(FetchError):
    """The month's file is not published."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch the full, current DB-IP Lite files.")
    parser.add_argument("--url", default=URL, help="base URL of a mirror (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="folder for the files (default: %(default)s)")
    parser.add_argument("--month", type=month, default=datetime.now(UTC), help="YYYY-MM (default: this month)")
    options = parser.parse_args(arguments)
    before = options.month.replace(day=1) - timedelta(days=1)
    months = [f"{date:%Y-%m}" for date in (options.month, before)]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    status = 0
    os.umask(0o022)  # public data, which the other user of a container has to read
    with (
        Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress,
        httpx.Client(
            timeout=TIMEOUT,
            follow_redirects=True,
            # The files are compressed already.
            headers={"User-Agent": f"geoip/{__version__}", "Accept-Encoding": "identity"},
        ) as client,
    ):
        for kind in KINDS:
            try:
                options.folder.mkdir(parents=True, exist_ok=True)
                said = fetch(client, kind, months, options.url.rstrip("/"), options.folder, progress)
                console.print(said, highlight=False, markup=False, soft_wrap=True)
            except (FetchError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
                console.print(f"geodata: {kind.name}: {error}", highlight=False, markup=False, soft_wrap=True)
                status = 1
            except KeyboardInterrupt:
                console.print("geodata: interrupted; the next run continues from here")
                return 130
    return status


def month(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)


def fetch(client: httpx.Client, kind: Kind, months: Iterable[str], url: str, folder: Path, progress: Progress) -> str:
    """Fetch the newest file that is published; return the line to print about it."""
    target = folder / f"dbip-{kind.name}.mmdb"
    held = None
    if target.exists():
        try:
            check(target, kind)
            held = target.stat().st_mtime
        except FetchError:
            pass  # a damaged file is fetched again, whatever its date
    for published in months:
        name = f"dbip-{kind.name}-lite-{published}.mmdb.gz"
        part = folder / f"{name}.part"
        try:
            modified = download(client, f"{url}/{name}", part, held, progress)
        except NotThereError:
            continue
        if modified is None:
            return f"{target} is current"
        install(part, target, kind, modified)
        for left in folder.glob(f"dbip-{kind.name}-lite-*.part"):  # of other months
            left.unlink()
        return f"{target}: {target.stat().st_size:,} bytes, {published}. IP Geolocation by DB-IP (https://db-ip.com)"
    raise FetchError(f"{url} has no file for {' or '.join(months)}: name another month with --month")


def download(client: httpx.Client, url: str, part: Path, held: float | None, progress: Progress) -> float | None:
    """Complete the part; return when the file was last modified, or None if it is not newer than the one held.

    Raises:
        NotThereError: HTTP 404.
        FetchError: `TRIES` tries in a row brought nothing, or another try would bring the same answer.

    """
    deadline = time.monotonic() + TIME_LIMIT
    tries = 0
    task = progress.add_task(part.name.removesuffix(".part"), total=None)
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"another run is fetching {part.name}: wait until it has ended") from None
        try:
            while True:
                size = file.tell()
                try:
                    return receive(client, url, file, held, deadline, progress, task)
                except httpx.TransportError as error:
                    file.flush()
                    tries = 1 if file.tell() > size else tries + 1
                    if tries == TRIES or time.monotonic() > deadline:
                        reason = str(error) or type(error).__name__
                        kept = f"; {file.tell():,} bytes are kept for the next run" if file.tell() else ""
                        raise FetchError(f"{url}: {reason}{kept}") from error
                    time.sleep(BACKOFF * 2 ** (tries - 1))
        finally:
            progress.remove_task(task)
            if file.tell() == 0:
                part.unlink(missing_ok=True)


def receive(
    client: httpx.Client,
    url: str,
    file: BinaryIO,
    held: float | None,
    deadline: float,
    progress: Progress,
    task: TaskID,
) -> float | None:
    """Append what one answer brings. A TransportError says that it is worth another try."""
    start = file.tell()
    headers = {"Range": f"bytes={start}-"} if start else {}
    if held is not None and not start:
        headers["If-Modified-Since"] = formatdate(held, usegmt=True)
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        first, total = content_range(response)
        if status == httpx.codes.NOT_FOUND:
            raise NotThereError(url)
        if status == httpx.codes.NOT_MODIFIED and held is not None:
            return None
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            if total == start:
                return last_modified(response)
            empty(file)
            raise httpx.RemoteProtocolError("the server has another file than before")
        if status in {408, 425, 429, 500, 502, 503, 504}:
            raise httpx.RemoteProtocolError(f"HTTP {status}")
        if status == httpx.codes.OK:
            # A server without ranges sends the whole file.
            empty(file)
            total = int(response.headers.get("Content-Length", 0)) or None
        elif status != httpx.codes.PARTIAL_CONTENT or first != start:
            raise FetchError(f"{url}: HTTP {status}")
        progress.update(task, total=total, completed=file.tell())
        for chunk in response.iter_raw():
            file.write(chunk)
            progress.update(task, completed=file.tell())
            if file.tell() > SIZE_LIMIT:
                empty(file)
                raise FetchError(f"{url}: more than {SIZE_LIMIT:,} bytes")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"not complete after {TIME_LIMIT:.0f} s")
        if file.tell() == 0:
            raise httpx.RemoteProtocolError("an empty answer")
        if total is not None and file.tell() != total:
            raise httpx.RemoteProtocolError(f"{file.tell():,} of {total:,} bytes")
        return last_modified(response)


def empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """Return the first byte's place and the whole size: `bytes 5-9/10`, or `bytes */10`."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    first, total = match.groups() if match else (None, None)
    return int(first) if first else None, int(total) if total and total != "*" else None


def last_modified(response: httpx.Response) -> float:
    try:
        return parsedate_to_datetime(response.headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def install(part: Path, target: Path, kind: Kind, modified: float) -> None:
    """Unpack, check and put in place. A damaged file is deleted, and the target stays as it was."""
    fresh = target.with_suffix(".mmdb.new")
    try:
        unpack(part, fresh)
        check(fresh, kind)
        os.utime(fresh, (modified, modified))
        fresh.replace(target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        part.unlink()
        raise FetchError(f"{part.stem} is damaged ({error}): run again") from error
    except FetchError:
        part.unlink()
        raise
    finally:
        fresh.unlink(missing_ok=True)
    part.unlink()


def unpack(part: Path, fresh: Path) -> None:
    with gzip.open(part) as packed, fresh.open("wb") as unpacked:
        while chunk := packed.read(1 << 20):
            unpacked.write(chunk)
            if unpacked.tell() > SIZE_LIMIT:
                raise FetchError(f"{part.stem} unpacks to more than {SIZE_LIMIT:,} bytes")
        unpacked.flush()
        os.fsync(unpacked.fileno())


def check(path: Path, kind: Kind) -> None:
    """Ask the file what the app will ask it.

    Raises:
        FetchError: it is too small for a full file, is not a database, or does not know where 8.8.8.8 is.

    """
    size = path.stat().st_size
    if size < kind.least:
        raise FetchError(f"{path.name}: {size:,} bytes are too few for a full file")
    try:
        found = Databases([path]).find(ip_address("8.8.8.8"))
    except ValueError as error:
        raise FetchError(str(error)) from error
    if found is None or found.get(kind.field) is None:
        raise FetchError(f"{path.name}: no {kind.field} for 8.8.8.8")


if __name__ == "__main__":
    sys.exit(main())
