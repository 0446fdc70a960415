"""MaxMind DB files: what is read from each publisher's layout, from damaged files, and from ones that are replaced."""

import logging
import os
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import IO, Any

import maxminddb
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from app import mmdb
from app.mmdb import Databases
from scripts.sample import RESOLVERS, ROOT_SERVERS

SAMPLE = Path(mmdb.__file__).with_name("sample.mmdb")
NOTHING = dict.fromkeys(
    ("isp", "latitude", "longitude", "city", "region", "country", "country_code", "postal_code", "timezone", "asn")
)
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
    """Let every lookup look whether the file was replaced."""
    monkeypatch.setattr(mmdb, "_LOOK_EVERY", 0.0)


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
    "latitude without longitude": ({"latitude": 37.4, "asn": 15169}, {"asn": 15169}),
    "half a text of coordinates": ({"loc": "37.4056,", "asn": 15169}, {"asn": 15169}),
    "a record of other shapes": (
        {"city": ["x"], "location": "37,-122", "subdivisions": [], "country": {"names": {}}, "asn": 15169},
        {"asn": 15169},
    ),
}


@pytest.mark.parametrize(("record", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_publishers_layout_is_read(tmp_path: Path, record: dict[str, Any], expected: dict[str, Any]) -> None:
    databases = Databases([write(tmp_path / "a.mmdb", {"8.8.8.0/24": record})])
    assert databases.find(GOOGLE) == NOTHING | expected


@pytest.mark.parametrize("network", ["8.8.8.0/24", "8.8.8.8/32", "2001:4860:4860::/48", "2001:4860:4860::8888/128"])
def test_a_network_ends_where_it_ends(tmp_path: Path, network: str) -> None:
    databases = Databases([write(tmp_path / "a.mmdb", {network: {"asn": 15169}})])
    first, last = ip_network(network)[0], ip_network(network)[-1]
    assert databases.find(first) == databases.find(last) == NOTHING | {"asn": 15169}
    assert databases.find(first - 1) is None
    assert databases.find(last + 1) is None


def test_the_narrower_network_decides(tmp_path: Path) -> None:
    databases = Databases([write(tmp_path / "a.mmdb", {"8.0.0.0/8": {"asn": 3356}, "8.8.8.0/24": {"asn": 15169}})])
    assert databases.find(GOOGLE) == NOTHING | {"asn": 15169}
    assert databases.find(ip_address("8.8.9.0")) == NOTHING | {"asn": 3356}


def test_a_file_of_ipv4_alone_knows_no_ipv6_address(tmp_path: Path) -> None:
    databases = Databases(
        [write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 15169}, "32.0.0.0/3": {"asn": 1}}, version=4)]
    )
    assert databases.find(GOOGLE) == NOTHING | {"asn": 15169}
    assert databases.find(ip_address("2001:4860:4860::8888")) is None


def test_no_file_knows_no_address() -> None:
    assert Databases([]).find(GOOGLE) is None


def test_files_complete_one_another_and_the_first_decides(tmp_path: Path) -> None:
    city = write(tmp_path / "city.mmdb", {"8.8.8.0/24": {"city": "Mountain View", "country_code": "US", "asn": ""}})
    asn = write(tmp_path / "asn.mmdb", {"8.0.0.0/8": {"asn": 15169, "as_name": "Google", "country_code": "CA"}})
    expected = NOTHING | {"city": "Mountain View", "country_code": "US", "asn": 15169, "isp": "Google"}
    assert Databases([city, asn]).find(GOOGLE) == expected
    assert Databases([asn, city]).find(GOOGLE) == expected | {"country_code": "CA"}
    assert Databases([city, asn]).find(ip_address("8.8.9.0")) == NOTHING | {
        "asn": 15169,
        "isp": "Google",
        "country_code": "CA",
    }


def test_coordinates_are_never_mixed(tmp_path: Path) -> None:
    half = write(tmp_path / "half.mmdb", {"8.8.8.0/24": {"latitude": 1.5, "asn": 15169}})
    whole = write(tmp_path / "whole.mmdb", {"8.8.8.0/24": {"latitude": 0.0, "longitude": 0.0}})
    other = write(tmp_path / "other.mmdb", {"8.8.8.0/24": {"latitude": 3.5, "longitude": 4.5}})
    found = Databases([half, whole, other]).find(GOOGLE)
    assert found == NOTHING | {"latitude": 0.0, "longitude": 0.0, "asn": 15169}


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:  # one line: a dot is no newline
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
    "record", [{"connection_type": "Cable/DSL"}, {"domain": "example.org"}, {"is_anonymous": True}, {}, "text", 5]
)
def test_a_database_of_another_kind_is_refused(tmp_path: Path, record: object) -> None:
    write(tmp_path / "a.mmdb", {"8.8.8.0/24": record}, kind="GeoIP2-Connection-Type")
    assert refused(tmp_path / "a.mmdb").startswith("a MaxMind DB file of another kind ('GeoIP2-Connection-Type')")


def test_a_database_without_records_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.mmdb", {}, kind="nothing")
    assert refused(tmp_path / "a.mmdb").startswith("a MaxMind DB file of another kind ('nothing')")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x47Example", b"\x47Exampl\xff"),  # not UTF-8
        (b"\x47Example", b"\x00\xffExampl"),  # of a type that the format does not have
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.4.0/24": {"isp": "Google"}, "8.8.8.0/24": {"isp": "Example"}})
    contents = path.read_bytes()
    assert before in contents
    path.write_bytes(contents.replace(before, after))
    databases = Databases([path])
    assert databases.find(ip_address("8.8.4.4")) == NOTHING | {"isp": "Google"}
    with pytest.raises(ValueError, match=str(path)):
        databases.find(GOOGLE)


@pytest.mark.usefixtures("at_once")
def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    databases = Databases([path])
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"asn": 2}}))
    assert databases.find(GOOGLE) == NOTHING | {"asn": 2}
    write(path, {"8.8.8.0/24": {"asn": 30_000}})  # in place: the same inode
    assert databases.find(GOOGLE) == NOTHING | {"asn": 30_000}


@pytest.mark.usefixtures("at_once")
def test_a_replacement_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    before = path.stat()
    databases = Databases([path])

    def fresh_of_the_same_time(fresh: Path) -> None:
        write(fresh, {"8.8.8.0/24": {"asn": 2}})
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))

    replace(path, fresh_of_the_same_time)
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert databases.find(GOOGLE) == NOTHING | {"asn": 2}


def test_a_file_is_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.mmdb.time.monotonic", lambda: now)
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    databases = Databases([path])
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"asn": 2}}))
    now += 0.9
    assert databases.find(GOOGLE) == NOTHING | {"asn": 1}
    now += 0.1
    assert databases.find(GOOGLE) == NOTHING | {"asn": 2}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(SAMPLE.read_bytes()[:-1000]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: write(path, {"8.8.8.0/24": {"domain": "example.org"}}), "of another kind"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["truncated", "empty", "foreign", "deleted"],
)
@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_broken_replacement_is_logged_once_and_the_old_contents_stay(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], object],
    reason: str,
    in_one_step: bool,
) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    databases = Databases([path])
    with caplog.at_level(logging.WARNING, "geoip"):
        if in_one_step and reason != "No such file":
            replace(path, make)
        else:
            make(path)
        for _ in range(3):
            assert databases.find(GOOGLE) == NOTHING | {"asn": 1}
    (logged,) = caplog.records
    assert (logged.name, logged.levelname) == ("geoip", "WARNING")
    assert str(path) in logged.getMessage()
    assert reason in logged.getMessage()
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"asn": 2}}))
    assert databases.find(GOOGLE) == NOTHING | {"asn": 2}


@pytest.mark.usefixtures("at_once")
def test_a_broken_replacement_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    databases = Databases([path])
    path.write_bytes(b"broken")
    opened: list[object] = []
    original = maxminddb.open_database

    def open_database(file: IO[bytes], mode: int) -> maxminddb.Reader:
        opened.append(file)
        return original(file, mode)

    monkeypatch.setattr("app.mmdb.maxminddb.open_database", open_database)
    for _ in range(3):
        assert databases.find(GOOGLE) == NOTHING | {"asn": 1}
    assert len(opened) == 1


@pytest.mark.usefixtures("at_once")
def test_a_slow_copy_onto_the_file_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    databases = Databases([path])
    whole = SAMPLE.read_bytes()
    with path.open("wb", buffering=0) as copy:
        for start in range(0, len(whole), 50_000):
            assert databases.find(GOOGLE) == NOTHING | {"asn": 1}
            copy.write(whole[start : start + 50_000])
    found = databases.find(GOOGLE)
    assert found is not None
    assert found["isp"] == "Google LLC"
    assert len([logged for logged in caplog.records if logged.levelname == "WARNING"]) == 1


@pytest.mark.usefixtures("at_once")
def test_a_replacement_that_could_not_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.mmdb", {"8.8.8.0/24": {"asn": 1}})
    databases = Databases([path])
    replace(path, lambda fresh: write(fresh, {"8.8.8.0/24": {"asn": 2}}))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as refusing:
        refusing.setattr("app.mmdb.Path.open", refuse)
        for _ in range(2):
            assert databases.find(GOOGLE) == NOTHING | {"asn": 1}
    assert databases.find(GOOGLE) == NOTHING | {"asn": 2}
    assert caplog.messages == [f"{path}: Permission denied; the old contents stay in use"]


def test_a_file_that_turns_out_to_be_damaged_is_logged_once_and_the_others_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = write(tmp_path / "city.mmdb", {"8.8.4.0/24": {"city": "Berlin"}, "8.8.8.0/24": {"city": "Example"}})
    damaged.write_bytes(damaged.read_bytes().replace(b"Example", b"Exampl\xff"))
    databases = Databases([damaged, write(tmp_path / "asn.mmdb", {"8.8.8.0/24": {"asn": 1}})])
    for _ in range(2):
        assert databases.find(GOOGLE) == NOTHING | {"asn": 1}
    (logged,) = caplog.messages
    assert logged.startswith(f"{damaged}: ")
    assert logged.endswith("; the other files are used")


# The sample that ships with the app.


def test_the_sample_is_small() -> None:
    assert SAMPLE.stat().st_size <= 256_000


def sample() -> list[tuple[IPv4Network | IPv6Network, Any]]:
    with maxminddb.open_database(SAMPLE) as reader:
        return list(reader)


def test_every_record_of_the_sample_has_isp_coordinates_and_country() -> None:
    databases = Databases([SAMPLE])
    for network, _ in sample():
        found = databases.find(network[0])
        assert found is not None
        assert isinstance(found["isp"], str)
        assert isinstance(found["asn"], int)
        assert isinstance(found["country"], str)
        assert isinstance(found["latitude"], float)
        assert isinstance(found["longitude"], float)
        assert -90 <= found["latitude"] <= 90
        assert -180 <= found["longitude"] <= 180
        assert (found["latitude"], found["longitude"]) != (0.0, 0.0)


# ISO 3166-1, and the XK that stands for Kosovo.
COUNTRIES = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY "
    "BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK "
    "FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR "
    "IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK "
    "ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM "
    "PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF "
    "TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW "
)


@pytest.mark.parametrize(("version", "unknown"), [(4, {"CC", "CX", "EH", "TF"}), (6, set())])
def test_the_sample_has_every_country(version: int, unknown: set[str]) -> None:
    # The city and AS data have no IPv4 network of those four that they agree on.
    found = {record["country"]["iso_code"] for network, record in sample() if network.version == version}
    assert found == set(COUNTRIES.split()) - unknown


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
    databases = Databases([SAMPLE])
    assert databases.find(IPv4Address("8.8.8.255")) is not None
    assert databases.find(IPv4Address("8.8.7.255")) is None
    assert databases.find(IPv4Address("8.8.9.0")) is None
    assert databases.find(IPv6Address("2620:fe::1:0:0:1")) is not None
    assert databases.find(IPv6Address("2620:fe:1::")) is None


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
