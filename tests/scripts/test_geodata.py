"""`make geodata` against a server on the loopback interface that breaks off, refuses, lies and stalls."""

import fcntl
import gzip
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from scripts import geodata

ROOT = Path(geodata.__file__).parent.parent
MODIFIED = 1_793_500_000  # seconds since 1970; a day in November 2026
CITY = "dbip-city-lite-2026-11.mmdb.gz"
ASN = "dbip-asn-lite-2026-11.mmdb.gz"
RECORDS: dict[str, dict[str, Any]] = {
    "city": {"8.8.8.0/24": {"location": {"latitude": 37.4, "longitude": -122.1}}},
    "asn": {"8.8.8.0/24": {"autonomous_system_number": 15169, "autonomous_system_organization": "Google LLC"}},
}


@dataclass
class Server:
    """Its files, its behaviour, and the requests that it got."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    at_most: int = 1_000_000_000  # bytes that answer a range
    content_range: str | None = None  # instead of the right one
    break_after: list[int] = field(default_factory=list)  # bytes of the body, one a request
    statuses: list[int] = field(default_factory=list)  # instead of an answer, one a request
    moved: bool = False
    pause: float = 0  # seconds before each 10 kB
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)  # name, range, status
    sent: int = 0


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if server.moved and "moved" not in self.path:
                return self.answer(name, 302, headers={"Location": f"{server.url}/moved/{name}"})
            if server.statuses:
                return self.answer(name, server.statuses.pop(0))
            if name not in server.files:
                return self.answer(name, 404)
            if self.headers["If-Modified-Since"] == formatdate(MODIFIED, usegmt=True):
                return self.answer(name, 304)
            body = server.files[name]
            total = len(body)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            if wanted is None or not server.ranges:
                return self.answer(name, 200, body)
            start = int(wanted[1])
            if start >= total:
                return self.answer(name, 416, headers={"Content-Range": f"bytes */{total}"})
            body = body[start : start + server.at_most]
            place = server.content_range or f"bytes {start}-{start + len(body) - 1}/{total}"
            return self.answer(name, 206, body, {"Content-Range": place})

        def answer(self, name: str, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            server.asked.append((name, self.headers["Range"], status))
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            if status in {200, 206}:
                self.send_header("Last-Modified", formatdate(MODIFIED, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if body and server.break_after:
                body = body[: server.break_after.pop(0)]
                self.close_connection = True
            try:
                for start in range(0, len(body), 10_000):
                    time.sleep(server.pause)
                    self.wfile.write(body[start : start + 10_000])
                    self.wfile.flush()
                    server.sent += len(body[start : start + 10_000])
            except OSError:
                self.close_connection = True  # the client went away

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(files={CITY: gzip.compress(database("city"), 1), ASN: gzip.compress(database("asn"), 1)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as listening:
        listening.daemon_threads = True
        listening.block_on_close = False
        state.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geodata, "BACKOFF", 0.01)
    monkeypatch.setattr(geodata, "TIMEOUT", 5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def database(kind: str, records: dict[str, Any] | None = None, *, size: int | None = None) -> bytes:
    """Return a MaxMind DB that unused bytes behind its records make as large as a full one."""
    writer = MMDBWriter(6, ipv4_compatible=True)
    for network, record in (RECORDS[kind] if records is None else records).items():
        writer.insert_network(IPSet([network]), record)
    path = ROOT / "build" / f"test-{os.getpid()}.mmdb"
    path.parent.mkdir(exist_ok=True)
    writer.to_db_file(str(path))
    whole = path.read_bytes()
    path.unlink()
    if size is None:
        size = {kind.name: kind.least for kind in geodata.KINDS}[kind]
    marker = whole.index(b"\xab\xcd\xefMaxMind.com")
    # Not all the same, so that a part put in the wrong place is noticed.
    filling = b"".join(number.to_bytes(4, "big") for number in range(50_000)) + bytes(max(0, size - 200_000))
    return whole[:marker] + (filling if size else b"") + whole[marker:]


def run(server: Server, folder: Path, month: str = "2026-11") -> int:
    return geodata.main(["--url", server.url, "--folder", str(folder), "--month", month])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


BOTH = ["dbip-asn.mmdb", "dbip-city.mmdb"]


def test_both_files_are_fetched(server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, folder) == 0
    assert names(folder) == BOTH
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])
    assert (folder / "dbip-asn.mmdb").read_bytes() == gzip.decompress(server.files[ASN])
    assert (folder / "dbip-city.mmdb").stat().st_mtime == MODIFIED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "dbip-city.mmdb: 12,0" in said[0]
    assert "2026-11. IP Geolocation by DB-IP (https://db-ip.com)" in said[0]


def test_anybody_may_read_the_files_whatever_the_umask(server: Server, folder: Path) -> None:
    before = os.umask(0o077)
    try:
        assert run(server, folder / "data") == 0
    finally:
        os.umask(before)
    assert oct((folder / "data").stat().st_mode)[-3:] == "755"
    assert {oct(path.stat().st_mode)[-3:] for path in (folder / "data").iterdir()} == {"644"}


def test_a_broken_connection_goes_on_where_it_stopped(server: Server, folder: Path) -> None:
    whole = len(server.files[CITY])
    server.break_after = [1000, 25_000, 1]
    assert run(server, folder) == 0
    assert names(folder) == BOTH
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])
    assert [asked for asked in server.asked if asked[0] == CITY] == [
        (CITY, None, 200),
        (CITY, "bytes=1000-", 206),
        (CITY, "bytes=26000-", 206),
        (CITY, "bytes=26001-", 206),
    ]
    assert server.sent == whole + len(server.files[ASN])  # no byte twice


def test_more_breaks_than_tries_are_no_failure_as_long_as_it_goes_on(server: Server, folder: Path) -> None:
    server.break_after = [5000] * (2 * geodata.TRIES)
    assert run(server, folder) == 0
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])


def test_a_run_that_got_nowhere_is_continued_by_the_next(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_after = [30_000] + [0] * geodata.TRIES
    assert run(server, folder) == 1
    assert names(folder) == ["dbip-asn.mmdb", f"{CITY}.part"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geodata: ")]
    assert "30,000 bytes are kept for the next run" in line
    server.break_after = []
    server.asked = []
    assert run(server, folder) == 0
    assert (CITY, "bytes=30000-", 206) in server.asked
    assert names(folder) == BOTH
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])


def test_a_server_without_ranges_starts_over(server: Server, folder: Path) -> None:
    server.ranges = False
    server.break_after = [20_000, 30_000]
    assert run(server, folder) == 0
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])


def test_less_than_the_range_asked_for_is_completed(server: Server, folder: Path) -> None:
    server.at_most = 20_000
    server.break_after = [1000]
    assert run(server, folder) == 0
    assert (CITY, "bytes=21000-", 206) in server.asked
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])


def test_a_complete_part_is_installed(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{CITY}.part").write_bytes(server.files[CITY])
    assert run(server, folder) == 0
    assert (CITY, f"bytes={len(server.files[CITY])}-", 416) in server.asked
    assert names(folder) == BOTH


def test_a_part_of_another_file_is_dropped(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{CITY}.part").write_bytes(bytes(len(server.files[CITY]) + 1))
    assert run(server, folder) == 0
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])


def test_a_part_that_does_not_fit_is_dropped_and_the_next_run_succeeds(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / f"{CITY}.part").write_bytes(server.files[CITY][:5000] + bytes(5000))
    assert run(server, folder) == 1
    assert f"geodata: city: {CITY} is damaged" in capsys.readouterr().err
    assert names(folder) == ["dbip-asn.mmdb"]
    assert run(server, folder) == 0


def test_the_month_before_serves_until_the_new_file_is_there(server: Server, folder: Path) -> None:
    assert run(server, folder, "2026-12") == 0
    assert names(folder) == BOTH
    assert server.asked[:2] == [("dbip-city-lite-2026-12.mmdb.gz", None, 404), (CITY, None, 200)]


def test_december_is_before_january(server: Server, folder: Path) -> None:
    server.files = {name.replace("2026-11", "2025-12"): body for name, body in server.files.items()}
    assert run(server, folder, "2026-01") == 0


def test_parts_of_other_months_are_removed(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "dbip-city-lite-2026-10.mmdb.gz.part").write_bytes(b"part")
    assert run(server, folder) == 0
    assert names(folder) == BOTH


def test_no_file_for_either_month_is_an_error(server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files = {}
    assert run(server, folder) == 1
    assert (
        f"geodata: city: {server.url} has no file for 2026-11 or 2026-10: name another month with --month\n"
        in capsys.readouterr().err
    )
    assert names(folder) == []


def test_a_current_file_is_not_fetched_again(server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, folder) == 0
    server.asked = []
    assert run(server, folder) == 0
    assert server.asked == [(CITY, None, 304), (ASN, None, 304)]
    assert f"{folder / 'dbip-city.mmdb'} is current" in capsys.readouterr().err
    assert names(folder) == BOTH


def test_a_broken_file_is_fetched_again_whatever_its_date(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "dbip-city.mmdb").write_bytes(b"broken")
    os.utime(folder / "dbip-city.mmdb", (MODIFIED, MODIFIED))
    assert run(server, folder) == 0
    assert (folder / "dbip-city.mmdb").read_bytes() == gzip.decompress(server.files[CITY])


WHOLE = gzip.compress(database("city"), 1)


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (b"<html>502 Bad Gateway</html>", "is damaged"),
        (b"", "an empty answer"),
        (WHOLE[:-100], "is damaged"),
        (WHOLE[:20_000] + b"?" + WHOLE[20_001:], "is damaged"),
        (gzip.compress(b"x" * 20_000_000), "not a MaxMind DB file, or a truncated one"),
        (gzip.compress(database("city")[:-500]), "not a MaxMind DB file, or a truncated one"),
        (gzip.compress(database("city", size=0)), "are too few for a full file"),
        (gzip.compress(database("city", {"8.8.8.0/24": {"domain": "dns.google"}})), "neither ISPs nor coordinates"),
        (gzip.compress(database("city", {"9.9.9.0/24": RECORDS["city"]["8.8.8.0/24"]})), "no latitude for 8.8.8.8"),
        (gzip.compress(database("city", RECORDS["asn"])), "no latitude for 8.8.8.8"),
    ],
    ids=[
        "a page",
        "nothing",
        "cut off",
        "a wrong byte",
        "no database",
        "a truncated database",
        "a small one",
        "another kind",
        "without 8.8.8.8",
        "the other file",
    ],
)
def test_a_broken_new_file_leaves_the_old_one(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], served: bytes, reason: str
) -> None:
    folder.mkdir()
    old = database("city", {"8.8.8.0/24": {"latitude": 1.0, "longitude": 2.0}})
    (folder / "dbip-city.mmdb").write_bytes(old)
    server.files[CITY] = served
    assert run(server, folder) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geodata: ")]
    assert line.startswith("geodata: city: ")
    assert reason in line
    assert (folder / "dbip-city.mmdb").read_bytes() == old
    assert names(folder) == BOTH  # the other file is fetched all the same, and no part stays


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(server: Server, folder: Path, status: int) -> None:
    server.statuses = [status] * (geodata.TRIES - 1)
    assert run(server, folder) == 0


@pytest.mark.parametrize(("status", "requests"), [(500, geodata.TRIES), (403, 1), (206, 1), (204, 1)])
def test_a_server_that_refuses_is_an_error(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], status: int, requests: int
) -> None:
    server.statuses = [status] * requests
    assert run(server, folder) == 1
    assert f"HTTP {status}" in capsys.readouterr().err
    assert [asked for asked in server.asked if asked[0] == CITY] == [(CITY, None, status)] * requests
    assert names(folder) == ["dbip-asn.mmdb"]


def test_another_range_than_asked_is_an_error(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{CITY}.part").write_bytes(server.files[CITY][:100])
    server.content_range = "bytes 0-99/100"
    assert run(server, folder) == 1
    assert (folder / f"{CITY}.part").read_bytes() == server.files[CITY][:100]


def test_a_redirect_is_followed(server: Server, folder: Path) -> None:
    server.moved = True
    assert run(server, folder) == 0


def test_a_silent_server_is_not_waited_for(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geodata, "TIMEOUT", 0.1)
    server.pause = 1
    began = time.monotonic()
    assert run(server, folder) == 1
    assert time.monotonic() - began < 5
    assert "timed out" in capsys.readouterr().err


def test_a_slow_server_is_not_waited_for_longer_than_the_limit(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geodata, "TIME_LIMIT", 0.2)
    server.pause = 0.15
    assert run(server, folder) == 1
    assert "not complete after" in capsys.readouterr().err
    assert (folder / f"{CITY}.part").stat().st_size >= 10_000


def test_an_endless_file_is_refused(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geodata, "SIZE_LIMIT", 50_000)
    assert run(server, folder) == 1
    assert "more than 50,000 bytes" in capsys.readouterr().err
    assert names(folder) == []


def test_a_file_that_unpacks_without_end_is_refused(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geodata, "SIZE_LIMIT", len(server.files[CITY]))
    assert run(server, folder) == 1
    assert "unpacks to more than" in capsys.readouterr().err
    assert names(folder) == []


def test_a_server_that_cannot_be_reached_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert geodata.main(["--url", "http://127.0.0.1:9", "--folder", str(folder)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert names(folder) == []


@pytest.mark.parametrize("url", ["http://[", "ftp://example.org", "nonsense"])
def test_a_malformed_url_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert geodata.main(["--url", url, "--folder", str(folder)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_folder_that_cannot_be_made_is_an_error(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("a file")
    assert run(server, tmp_path / "data") == 1
    assert "geodata: city: " in capsys.readouterr().err


@pytest.mark.parametrize("month", ["2026", "2026-13", "november"])
def test_a_malformed_month_is_an_error(server: Server, folder: Path, month: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(server, folder, month)
    assert caught.value.code == 2


def test_two_runs_do_not_write_to_the_same_part(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    with (folder / f"{CITY}.part").open("ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        part.write(b"x")
        part.flush()
        assert run(server, folder) == 1
    assert "another run is fetching" in capsys.readouterr().err
    assert (folder / f"{CITY}.part").read_bytes() == b"x"


def test_an_interrupted_run_is_continued_by_the_next(server: Server, folder: Path) -> None:
    server.pause = 0.2
    command = [sys.executable, "-m", "scripts.geodata", "--month", "2026-11"]
    with subprocess.Popen(
        [*command, "--url", server.url, "--folder", str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 20
        while server.sent < 20_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said == "geodata: interrupted; the next run continues from here\n"
    kept = (folder / f"{CITY}.part").read_bytes()
    assert len(kept) >= 10_000
    assert server.files[CITY].startswith(kept)
    server.pause = 0
    assert run(server, folder) == 0
    assert (CITY, f"bytes={len(kept)}-", 206) in server.asked
    assert names(folder) == BOTH
