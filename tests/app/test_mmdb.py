"""MaxMind DB files: what is read from each publisher's layout, from damaged files, and from ones that are replaced."""

import itertools
import logging
import os
import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import maxminddb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmdb_writer import MmdbF32, MmdbF64, MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from app.address import IPAddress
from app.answer import Answer
from app.client import Client
from app.problems import Problem
from app.registries import COUNTRY_CODES
from app.sources import databases
from app.sources.databases import Databases
from app.sources.mmdb import SAMPLE, Mmdb, MmdbSettings
from scripts.sample import RESOLVERS, ROOT_SERVERS
from tests.app.documented import EXAMPLES, NULLS, Example

GOOGLE = ip_address("8.8.8.8")


def write(path: Path, records: Mapping[str, Any], *, version: int = 6, kind: str = "test") -> Path:
    writer = MMDBWriter(version, kind, ipv4_compatible=version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return path


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Replace a file in one step, as a careful program does."""
    fresh = path.with_suffix(".new")
    make(fresh)
    fresh.replace(path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second go by between two looks at the time, so that every lookup looks whether the file was replaced."""
    monkeypatch.setattr(databases, "time", SimpleNamespace(monotonic=itertools.count().__next__))


# As the publishers' own documentation and sample files have them, shortened.
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GeoIP2 City": (
        {
            "city": {"geoname_id": 5375480, "names": {"de": "Mountain View", "en": "Mountain View"}},
            "country": {"iso_code": "US", "names": {"de": "USA", "en": "United States"}},
            "location": {"latitude": 37.4, "longitude": -122.1, "time_zone": "America/Los_Angeles"},
            "postal": {"code": "94043"},
            "registered_country": {"iso_code": "DE", "names": {"en": "Germany"}},
            "subdivisions": [{"names": {"en": "California"}}, {"names": {"en": "Santa Clara"}}],
        },
        {
            "latitude": 37.4,
            "longitude": -122.1,
            "city": "Mountain View",
            "region": "California",
            "country": "United States",
            "country_code": "US",
            "postal_code": "94043",
            "timezone": "America/Los_Angeles",
        },
    ),
    "GeoIP2 City that knows the country alone": (
        {"country": {"iso_code": "US", "names": {"de": "USA"}}, "location": {"latitude": 0.0, "longitude": 0.0}},
        {"latitude": 0.0, "longitude": 0.0, "country_code": "US"},
    ),
    "GeoLite2 ASN": (
        {"autonomous_system_number": 15169, "autonomous_system_organization": "GOOGLE"},
        {"isp": "GOOGLE", "asn": 15169},
    ),
    "GeoIP2 ISP": (
        {
            "autonomous_system_number": 1221,
            "autonomous_system_organization": "Telstra Pty Ltd",
            "isp": "Telstra Internet",
            "organization": "Example School",
        },
        {"isp": "Telstra Internet", "asn": 1221},
    ),
    "GeoIP2 ISP without the provider": (
        {"autonomous_system_organization": "Telstra Pty Ltd", "organization": "Example School"},
        {"isp": "Example School"},
    ),
    "GeoIP2 Enterprise": (
        {"traits": {"autonomous_system_number": 1221, "isp": "Telstra", "organization": "Example School"}},
        {"isp": "Telstra", "asn": 1221},
    ),
    "DB-IP City Lite": (
        {
            "city": {"names": {"en": "Mountain View"}},
            "continent": {"code": "NA", "names": {"en": "North America"}},
            "country": {"iso_code": "US", "is_in_european_union": False, "names": {"en": "United States"}},
            "location": {"latitude": 37.4223, "longitude": -122.085},
            "subdivisions": [{"names": {"en": "California"}}],
        },
        {
            "latitude": 37.4223,
            "longitude": -122.085,
            "city": "Mountain View",
            "region": "California",
            "country": "United States",
            "country_code": "US",
        },
    ),
    "ip-location-db": (
        {
            "city": "Mountain View",
            "country_code": "US",
            "latitude": 37.4,
            "longitude": -122.1,
            "postcode": "",
            "state1": "California",
            "state2": "",
            "timezone": "",
        },
        {"latitude": 37.4, "longitude": -122.1, "city": "Mountain View", "region": "California", "country_code": "US"},
    ),
    "IPinfo Lite": (
        {
            "as_domain": "google.com",
            "as_name": "Google LLC",
            "asn": "AS15169",
            "continent": "North America",
            "country": "United States",
            "country_code": "US",
        },
        {"isp": "Google LLC", "asn": "AS15169", "country": "United States", "country_code": "US"},
    ),
    "IPinfo location": (
        {
            "city": "Mountain View",
            "country": "US",
            "lat": "37.4056",
            "lng": "-122.0775",
            "postal_code": "94043",
            "region": "California",
            "timezone": "America/Los_Angeles",
        },
        {
            "latitude": "37.4056",
            "longitude": "-122.0775",
            "city": "Mountain View",
            "region": "California",
            "country_code": "US",
            "postal_code": "94043",
            "timezone": "America/Los_Angeles",
        },
    ),
    "IPinfo Core": (
        {"latitude": 37.4, "longitude": -122.1, "country": "United States", "country_code": "US", "as_name": "Google"},
        {"latitude": 37.4, "longitude": -122.1, "country": "United States", "country_code": "US", "isp": "Google"},
    ),
    "IPinfo, both coordinates in one text": (
        {"loc": "37.4056,-122.0775", "country": "US", "country_name": "United States"},
        {"latitude": "37.4056", "longitude": "-122.0775", "country_code": "US", "country": "United States"},
    ),
    "flat AS data": (
        {"asn": "15169", "domain": "google.com", "name": "Google LLC"},
        {"asn": "15169", "isp": "Google LLC"},
    ),
    "a name that is not that of an AS": (
        {"name": "Somewhere", "lat": 1.5, "lng": 2.5},
        {"latitude": 1.5, "longitude": 2.5},
    ),
    "a country by its name": (
        {"country": "Germany", "as_name": "Example"},
        {"country": "Germany", "isp": "Example"},
    ),
    "latitude without longitude": ({"latitude": 37.4, "asn": 15169, "isp": "Google"}, {"asn": 15169, "isp": "Google"}),
    "half a text of coordinates": ({"loc": "37.4056,", "asn": 15169, "isp": "Google"}, {"asn": 15169, "isp": "Google"}),
    "a record of other shapes": (
        {"city": ["x"], "location": "37,-122", "subdivisions": [], "country": {"names": {}}, "isp": "Google"},
        {"isp": "Google"},
    ),
}


@pytest.mark.parametrize(("record", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_publishers_layout_is_read(tmp_path: Path, record: dict[str, Any], expected: dict[str, Any]) -> None:
    assert Databases([write(tmp_path / "a.mmdb", {"8.8.8.0/24": record})]).find(GOOGLE) == expected


@pytest.mark.parametrize("network", ["8.8.8.0/24", "8.8.8.8/32", "2001:4860:4860::/48", "2001:4860:4860::8888/128"])
def test_a_network_ends_where_it_ends(tmp_path: Path, network: str) -> None:
    files = Databases([write(tmp_path / "a.mmdb", {network: {"isp": "AS15169"}})])
    first, last = ip_network(network)[0], ip_network(network)[-1]
    assert files.find(first) == files.find(last) == {"isp": "AS15169"}
    assert files.find(first - 1) is None
    assert files.find(last + 1) is None


def test_the_narrower_network_decides(tmp_path: Path) -> None:
    files = Databases([write(tmp_path / "a.mmdb", {"8.0.0.0/8": {"isp": "AS3356"}, "8.8.8.0/24": {"isp": "AS15169"}})])
    assert files.find(GOOGLE) == {"isp": "AS15169"}
    assert files.find(ip_address("8.8.9.0")) == {"isp": "AS3356"}


def test_a_file_of_ipv4_alone_knows_no_ipv6_address(tmp_path: Path) -> None:
    files = Databases(
        [write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS15169"}, "32.0.0.0/3": {"isp": "AS1"}}, version=4)]
    )
    assert files.find(GOOGLE) == {"isp": "AS15169"}
    assert files.find(ip_address("2001:4860:4860::8888")) is None


def test_files_complete_one_another_and_the_first_decides(tmp_path: Path) -> None:
    city = write(tmp_path / "city.mmdb", {"8.8.8.0/24": {"city": "Mountain View", "country_code": "US", "asn": ""}})
    asn = write(tmp_path / "asn.mmdb", {"8.0.0.0/8": {"asn": 15169, "as_name": "Google", "country_code": "CA"}})
    expected = {"city": "Mountain View", "country_code": "US", "asn": 15169, "isp": "Google"}
    assert Databases([city, asn]).find(GOOGLE) == expected
    assert Databases([asn, city]).find(GOOGLE) == expected | {"country_code": "CA"}
    assert Databases([city, asn]).find(ip_address("8.8.9.0")) == {
        "asn": 15169,
        "isp": "Google",
        "country_code": "CA",
    }


def test_coordinates_are_never_mixed(tmp_path: Path) -> None:
    half = write(tmp_path / "half.mmdb", {"8.8.8.0/24": {"latitude": 1.5, "asn": 15169}})
    whole = write(tmp_path / "whole.mmdb", {"8.8.8.0/24": {"latitude": 0.0, "longitude": 0.0}})
    other = write(tmp_path / "other.mmdb", {"8.8.8.0/24": {"latitude": 3.5, "longitude": 4.5}})
    found = Databases([half, whole, other]).find(GOOGLE)
    assert found == {"latitude": 0.0, "longitude": 0.0, "asn": 15169}


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:  # one line: a dot does not match a newline
        Databases([SAMPLE, path])
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "a.mmdb") == "No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "Is a directory"


@pytest.mark.parametrize("contents", [b"", b"<html>", bytes(5000)], ids=["empty", "text", "zeros"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "a.mmdb").write_bytes(contents)
    assert refused(tmp_path / "a.mmdb") == "not a MaxMind DB file, or a truncated one"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, part: float) -> None:
    whole = SAMPLE.read_bytes()
    (tmp_path / "a.mmdb").write_bytes(whole[: int(len(whole) * part)])
    assert refused(tmp_path / "a.mmdb") == "not a MaxMind DB file, or a truncated one"


def test_a_file_that_lost_its_last_bytes_is_refused(tmp_path: Path) -> None:
    whole = SAMPLE.read_bytes()
    path = tmp_path / "a.mmdb"
    for lost in range(1, len(whole) - whole.rindex(b"MaxMind.com")):
        path.write_bytes(whole[:-lost])
        with pytest.raises(ValueError, match="not a MaxMind DB file, or a truncated one"):
            Databases([path])


def test_a_file_that_lost_its_beginning_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mmdb").write_bytes(SAMPLE.read_bytes()[-1000:])
    assert refused(tmp_path / "a.mmdb") == "not a MaxMind DB file, or a truncated one"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x47Example", b"\x47Exampl\xff"),  # not UTF-8
        (b"\x47Example", b"\x00\xffExampl"),  # of a type that the format does not have
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, before: bytes, after: bytes) -> None:
    others = {f"1.0.0.{number}": {"isp": f"AS{number}"} for number in range(100)}  # more than the start looks at
    path = write(tmp_path / "a.mmdb", others | {"8.8.4.0/24": {"isp": "Google"}, "8.8.8.0/24": {"isp": "Example"}})
    contents = path.read_bytes()
    assert before in contents
    path.write_bytes(contents.replace(before, after))
    files = Databases([path])
    assert files.find(ip_address("8.8.4.4")) == {"isp": "Google"}
    with pytest.raises(ValueError, match=str(path)):
        files.find(GOOGLE)


@pytest.mark.usefixtures("at_once")
def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    files = Databases([path])
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"isp": "AS2"}}))
    assert files.find(GOOGLE) == {"isp": "AS2"}
    write(path, {"8.8.8.0/24": {"isp": "AS30_000"}})  # in place: the same inode
    assert files.find(GOOGLE) == {"isp": "AS30_000"}


@pytest.mark.usefixtures("at_once")
def test_a_replacement_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    before = path.stat()
    files = Databases([path])

    def fresh_of_the_same_time(fresh: Path) -> None:
        write(fresh, {"8.8.8.0/24": {"isp": "AS2"}})
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))

    replace(path, fresh_of_the_same_time)
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert files.find(GOOGLE) == {"isp": "AS2"}


def test_a_file_is_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.sources.databases.time.monotonic", lambda: now)
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    files = Databases([path])
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"isp": "AS2"}}))
    now += 0.9
    assert files.find(GOOGLE) == {"isp": "AS1"}
    now += 0.1
    assert files.find(GOOGLE) == {"isp": "AS2"}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(SAMPLE.read_bytes()[:-1000]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: write(path, {"8.8.8.0/24": {"domain": "dns.google"}}), "neither ISPs nor coordinates in it"),
    ],
    ids=["truncated", "empty", "deleted", "another kind"],
)
@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_broken_replacement_is_logged_and_the_old_contents_stay(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], object],
    reason: str,
    in_one_step: bool,
) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    files = Databases([path])
    with caplog.at_level(logging.WARNING, "geoip"):
        if in_one_step and reason != "No such file":
            replace(path, make)
        else:
            make(path)
        for _ in range(3):
            assert files.find(GOOGLE) == {"isp": "AS1"}
    (warning,) = {logged.getMessage() for logged in caplog.records if logged.levelname == "WARNING"}
    assert str(path) in warning
    assert reason in warning
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"isp": "AS2"}}))
    assert files.find(GOOGLE) == {"isp": "AS2"}


@pytest.mark.usefixtures("at_once")
def test_a_broken_replacement_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    files = Databases([path])
    path.write_bytes(b"broken")
    opened: list[object] = []
    original = maxminddb.open_database

    def open_database(file: IO[bytes], mode: int) -> maxminddb.Reader:
        opened.append(file)
        return original(file, mode)

    monkeypatch.setattr("app.sources.databases.maxminddb.open_database", open_database)
    for _ in range(3):
        assert files.find(GOOGLE) == {"isp": "AS1"}
    assert len(opened) == 1


@pytest.mark.usefixtures("at_once")
def test_a_slow_copy_onto_the_file_repeats_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    files = Databases([path])
    whole = SAMPLE.read_bytes()
    with path.open("wb", buffering=0) as copy:
        for start in range(0, len(whole), 50_000):
            assert files.find(GOOGLE) == {"isp": "AS1"}
            copy.write(whole[start : start + 50_000])
    found = files.find(GOOGLE)
    assert found is not None
    assert found["isp"] == "Google LLC"
    assert len({logged.getMessage() for logged in caplog.records if logged.levelname == "WARNING"}) == 1


@pytest.mark.usefixtures("at_once")
def test_a_replacement_that_could_not_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"isp": "AS1"}})
    files = Databases([path])
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"isp": "AS2"}}))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as refusing:
        refusing.setattr("app.sources.databases.Path.open", refuse)
        for _ in range(2):
            assert files.find(GOOGLE) == {"isp": "AS1"}
    assert files.find(GOOGLE) == {"isp": "AS2"}
    assert set(caplog.messages) == {f"{path}: Permission denied; the old contents stay in use"}


# Any kind of tree, and several files


def tree(path: Path, network: str, record: dict[str, Any]) -> Path:
    """An IPv6 file without an IPv4 subtree; the writer makes one for files that have to do with IPv4 alone."""
    writer = MMDBWriter(6, "test", ipv4_compatible=False)
    writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return path


@pytest.mark.parametrize("network", ["::/64", "::/1", "2000::/3", "2001:4860::/32", "::/127"])
def test_an_ipv6_file_without_an_ipv4_subtree_is_valid(tmp_path: Path, network: str) -> None:
    files = Databases([tree(tmp_path / "a.mmdb", network, {"isp": "Example"})])
    first = ip_network(network)[0]
    assert files.find(first) == {"isp": "Example"}
    assert files.find(ip_address("c000::1")) is None


def test_a_file_may_have_its_answers_behind_many_ipv4_networks(tmp_path: Path) -> None:
    without = {f"{first}.0.0.1/32": {"domain": "example.com"} for first in range(1, 30)}  # and the gaps between
    files = Databases([write(tmp_path / "a.mmdb", without | {"2001:4860::/32": {"isp": "Example"}})])
    assert files.find(ip_address("2001:4860::1")) == {"isp": "Example"}


def test_ipv4_and_ipv6_may_be_in_files_of_their_own(tmp_path: Path) -> None:
    four = write(tmp_path / "four.mmdb", {"8.8.8.0/24": {"isp": "Four"}}, version=4)
    six = tree(tmp_path / "six.mmdb", "2001:4860::/32", {"isp": "Six"})
    for paths in ([four, six], [six, four]):
        files = Databases(paths)
        assert files.find(GOOGLE) == {"isp": "Four"}
        assert files.find(ip_address("2001:4860:4860::8888")) == {"isp": "Six"}
        assert files.find(ip_address("2a00::1")) is None


@pytest.mark.parametrize(
    "records",
    [
        {"8.8.8.0/24": {"country": {"iso_code": "US", "names": {"en": "United States"}}}},
        {"8.8.8.0/24": {"connection_type": "Cable/DSL"}},
        {"8.8.8.0/24": {"latitude": 5.5}},
        {"8.8.8.0/24": {"asn": 15169, "country_code": "US"}},
        {"8.8.8.0/24": {"isp": "", "name": "nobody"}},
        {"8.8.8.0/24": "text"},
        {"8.8.8.0/24": 5},
        {},
    ],
)
def test_files_that_hold_neither_isps_nor_coordinates_are_refused(tmp_path: Path, records: dict[str, Any]) -> None:
    path = write(tmp_path / "a.mmdb", records)
    with pytest.raises(ValueError, match=r"\A.*: neither ISPs nor coordinates in it: .+\Z") as caught:
        Databases([path, path])
    assert str(path) in str(caught.value)


def test_a_file_of_countries_is_of_use_beside_one_of_providers(tmp_path: Path) -> None:
    country = write(tmp_path / "country.mmdb", {"8.8.8.0/24": {"country": {"iso_code": "US"}}})
    asn = write(tmp_path / "asn.mmdb", {"8.8.8.0/24": {"asn": "15169", "domain": "google.com", "name": "Google LLC"}})
    expected = {"country_code": "US", "asn": "15169", "isp": "Google LLC"}
    assert Databases([country, asn]).find(GOOGLE) == Databases([asn, country]).find(GOOGLE) == expected


# Digits


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MmdbF32(37.422), 37.422),
        (MmdbF32(-122.084), -122.084),
        (MmdbF32(0.1), 0.1),
        (MmdbF32(-0.0), 0.0),
        (MmdbF64(37.422000885009766), 37.422),
        (MmdbF64(37.4220008), 37.4220008),
        (MmdbF64(0.1), 0.1),
    ],
)
def test_a_place_has_the_digits_that_the_file_has(tmp_path: Path, value: object, expected: float) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"latitude": value, "longitude": MmdbF64(1.5)}})
    assert Databases([path]).find(GOOGLE) == {"latitude": expected, "longitude": 1.5}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-90, 90, width=32), min_size=20, max_size=20))
@example([0.0, -0.0, 1e-45, 1.401298464324817e-45, 90.0, -90.0, 1 / 3])
def test_any_number_of_32_bits_is_written_with_no_more_digits_than_it_has(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    records = {f"8.8.8.{n}": {"lat": MmdbF32(number), "lng": MmdbF32(1.5)} for n, number in enumerate(numbers)}
    path = tmp_path_factory.mktemp("digits") / "a.mmdb"
    files = Databases([write(path, records)])
    for n, number in enumerate(numbers):
        found = files.find(ip_address(f"8.8.8.{n}"))
        assert found
        latitude = found["latitude"]
        assert isinstance(latitude, float)
        assert single(latitude) == single(number)
        assert float(f"{latitude:.9g}") == latitude


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-900_000, 900_000), min_size=20, max_size=20))
def test_four_decimals_survive_32_bits(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    places = [number / 10_000 for number in numbers]
    records = {f"8.8.8.{n}": {"lat": MmdbF32(place), "lng": MmdbF32(1.5)} for n, place in enumerate(places)}
    files = Databases([write(tmp_path_factory.mktemp("digits") / "a.mmdb", records)])
    found = [files.find(ip_address(f"8.8.8.{n}")) for n in range(len(places))]
    assert [each["latitude"] if each else None for each in found] == places


def single(number: float) -> float:
    """A number as 32 bits hold it."""
    value: float = struct.unpack("f", struct.pack("f", number))[0]
    return value


# The source


async def asked(source: Mmdb, address: IPAddress | None) -> Answer | Problem:
    try:
        return await source.ask(address)
    except Problem as problem:
        return problem


@pytest.mark.anyio
@pytest.mark.parametrize("documented", EXAMPLES["mmdb"], ids=lambda each: each.name)
async def test_a_documented_record_is_an_answer(tmp_path: Path, documented: Example) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": documented.body})
    answer = await asked(Mmdb(MmdbSettings(city=(path,)), Client()), GOOGLE)
    assert isinstance(answer, Answer)
    assert answer.model_dump() == NULLS | documented.answer | {"source": "mmdb"}


@pytest.mark.anyio
async def test_the_files_of_both_settings_are_read(tmp_path: Path) -> None:
    city = write(tmp_path / "city.mmdb", {"8.8.8.0/24": {"latitude": 1.5, "longitude": 2.5}})
    four = write(tmp_path / "four.mmdb", {"8.8.8.0/24": {"isp": "Four"}}, version=4)
    six = tree(tmp_path / "six.mmdb", "2001:4860::/32", {"isp": "Six"})
    made = MmdbSettings.model_validate({"city": f"{city}", "asn": f"{four}, {six},"})
    source = Mmdb(made, Client())
    both, other = await asked(source, GOOGLE), await asked(source, ip_address("2001:4860::1"))
    assert isinstance(both, Answer)
    assert isinstance(other, Answer)
    assert (both.isp, both.latitude, other.isp) == ("Four", 1.5, "Six")


@pytest.mark.anyio
async def test_an_address_that_is_in_no_file_is_unknown_and_so_is_the_own_one() -> None:
    source = Mmdb(MmdbSettings(city=(SAMPLE,)), Client())
    for address in (None, ip_address("8.8.7.255")):
        problem = await asked(source, address)
        assert isinstance(problem, Problem)
        assert problem.code == "unknown-address"


@pytest.mark.anyio
async def test_a_damaged_record_is_a_failure_of_that_address(tmp_path: Path) -> None:
    others = {f"1.0.0.{number}": {"isp": f"AS{number}"} for number in range(100)}
    path = write(tmp_path / "a.mmdb", others | {"8.8.8.0/24": {"isp": "Example"}})
    path.write_bytes(path.read_bytes().replace(b"\x47Example", b"\x47Exampl\xff"))
    source = Mmdb(MmdbSettings(city=(path,)), Client())
    problem = await asked(source, GOOGLE)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.fault, problem.detail) == (
        "upstream-failed",
        "answer",
        "mmdb has a damaged file: see the log",
    )
    assert str(path) in problem.reason
    assert isinstance(await asked(source, ip_address("1.0.0.5")), Answer)


@pytest.mark.anyio
async def test_the_files_of_make_geodata_are_used_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sample = await asked(Mmdb(MmdbSettings(), Client()), GOOGLE)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "dbip-asn.mmdb", {"8.8.8.0/24": {"isp": "From data"}})
    data = await asked(Mmdb(MmdbSettings(), Client()), GOOGLE)
    assert isinstance(sample, Answer)
    assert isinstance(data, Answer)
    assert (sample.isp, data.isp) == ("Google LLC", "From data")


def test_a_data_folder_that_cannot_be_looked_into_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("app.sources.mmdb.Path.exists", refuse)
    with pytest.raises(ValueError, match=r"^data/dbip-city.mmdb: Permission denied$"):
        Mmdb(MmdbSettings(), Client())


# The sample that ships with the app.


def test_the_sample_is_small() -> None:
    assert SAMPLE.stat().st_size <= 256_000


def sample() -> list[tuple[IPv4Network | IPv6Network, Any]]:
    with maxminddb.open_database(SAMPLE) as reader:
        return list(reader)


def test_every_record_of_the_sample_has_isp_coordinates_and_country() -> None:
    files = Databases([SAMPLE])
    for network, _ in sample():
        found = files.find(network[0])
        assert found is not None
        assert isinstance(found["isp"], str)
        assert isinstance(found["asn"], int)
        assert isinstance(found["country"], str)
        assert isinstance(found["latitude"], float)
        assert isinstance(found["longitude"], float)
        assert -90 <= found["latitude"] <= 90
        assert -180 <= found["longitude"] <= 180
        assert (found["latitude"], found["longitude"]) != (0.0, 0.0)


@pytest.mark.parametrize(("version", "unknown"), [(4, {"CC", "CX", "EH", "TF"}), (6, set())])
def test_the_sample_has_every_country(version: int, unknown: set[str]) -> None:
    # The two sources of the sample agree on no IPv4 network of those four.
    found = {record["country"]["iso_code"] for network, record in sample() if network.version == version}
    assert found == COUNTRY_CODES - unknown


@pytest.mark.parametrize(
    "address",
    [address for addresses in (*RESOLVERS.values(), *ROOT_SERVERS.values()) for address in addresses],
)
def test_the_sample_knows_the_public_resolvers_and_the_root_servers(address: str) -> None:
    found = Databases([SAMPLE]).find(ip_address(address))
    assert found is not None
    assert found["isp"]
    assert found["latitude"] is not None


@pytest.mark.parametrize(
    ("address", "isp", "city"),
    [
        ("8.8.8.8", "Google LLC", "Mountain View"),
        ("1.1.1.1", "Cloudflare, Inc.", "Sydney"),
        ("9.9.9.9", "Quad9", "Berkeley (North Berkeley)"),
        ("2001:4860:4860::8888", "Google LLC", "Montreal"),
        ("2606:4700:4700::1111", "Cloudflare, Inc.", "Montreal"),
        ("199.7.83.42", "ICANN", "Los Angeles (Westchester)"),
    ],
)
def test_the_sample_says_what_the_data_says(address: str, isp: str, city: str) -> None:
    found = Databases([SAMPLE]).find(ip_address(address))
    assert found is not None
    assert (found["isp"], found["city"]) == (isp, city)


def test_the_sample_does_not_widen_a_network() -> None:
    files = Databases([SAMPLE])
    assert files.find(IPv4Address("8.8.8.255")) is not None
    assert files.find(IPv4Address("8.8.7.255")) is None
    assert files.find(IPv4Address("8.8.9.0")) is None
    assert files.find(IPv6Address("2620:fe::1:0:0:1")) is not None
    assert files.find(IPv6Address("2620:fe:1::")) is None


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("asn", "cloud"),
    [
        (16509, "Amazon"),
        (8075, "Microsoft"),
        (396982, "Google"),
        (31898, "Oracle"),
        (13335, "Cloudflare"),
        (54113, "Fastly"),
        (20940, "Akamai"),
        (63949, "Akamai"),
        (14061, "DigitalOcean"),
        (24940, "Hetzner"),
        (16276, "OVH"),
        (45102, "Alibaba"),
        (132203, "Tencent"),
    ],
)
def test_the_sample_has_several_networks_of_each_large_cloud(version: int, asn: int, cloud: str) -> None:
    records = [
        record
        for network, record in sample()
        if network.version == version and record["autonomous_system_number"] == asn
    ]
    assert len(records) >= 2
    assert all(cloud in record["autonomous_system_organization"] for record in records)
