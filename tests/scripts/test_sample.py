"""How the sample is made. tests/app/test_mmdb.py tests what is in it."""

import json
import struct
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from scripts import sample
from scripts.sample import Network, Package, Piece, System

GOOGLE = System(int(ip_address("8.8.8.0")), int(ip_address("8.8.9.127")), 15169, "Google LLC")
LEVEL3 = System(int(ip_address("8.8.9.128")), int(ip_address("8.9.255.255")), 3356, "Level 3")
PLACE = {"country_code": "US", "city": "Mountain View", "state1": "California", "latitude": 37.5, "longitude": -122.25}


def city(path: Path, records: dict[str, dict[str, Any]]) -> maxminddb.Reader:
    writer = MMDBWriter(4, "city", float_type="f32")
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return maxminddb.open_database(path)


def test_a_piece_is_where_a_place_and_a_system_meet(tmp_path: Path) -> None:
    reader = city(tmp_path / "city.mmdb", {"8.8.0.0/16": PLACE, "8.9.0.0/16": PLACE | {"country_code": ""}})
    found = [(piece.first, piece.last, piece.system) for piece in sample.pieces(reader, [GOOGLE, LEVEL3], 32)]
    assert found == [(GOOGLE.first, GOOGLE.last, GOOGLE), (LEVEL3.first, int(ip_address("8.8.255.255")), LEVEL3)]


@pytest.mark.parametrize(
    ("address", "network"), [(None, "8.8.8.0/24"), ("8.8.8.8", "8.8.8.0/24"), ("8.8.9.1", "8.8.9.0/25")]
)
def test_a_network_is_no_wider_than_its_piece(address: str | None, network: str) -> None:
    piece = Piece(GOOGLE.first, GOOGLE.last, PLACE, GOOGLE)
    assert sample.widest(piece, 32, int(ip_address(address)) if address else None) == ip_network(network)


def test_an_address_that_the_data_does_not_know_ends_the_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "RESOLVERS", {"Quad9": ("9.9.9.9",)})
    monkeypatch.setattr(sample, "ROOT_SERVERS", {})
    reader = city(tmp_path / "city.mmdb", {"8.8.8.0/24": PLACE, "9.9.10.0/24": PLACE})
    systems = [GOOGLE, System(int(ip_address("9.9.10.0")), int(ip_address("9.9.10.255")), 19281, "Quad9")]
    with pytest.raises(SystemExit, match=r"nothing about 9\.9\.9\.9"):
        list(sample.choose(reader, systems, 4))


def test_coordinates_are_the_decimals_that_were_published() -> None:
    def single(value: float) -> float:
        return float(struct.unpack("f", struct.pack("f", value))[0])

    assert single(37.422) != 37.422
    assert sample.double(single(37.422)).value == 37.422
    assert sample.double(single(1.35208)).value == 1.35208
    assert sample.double(single(0.0)).value == 0.0
    assert sample.double(single(-122.0)).value == -122.0


def test_the_same_records_make_the_same_bytes_and_keep_their_types(tmp_path: Path) -> None:
    system = GOOGLE._replace(number=42)
    chosen: dict[Network, Piece] = {
        IPv6Network("2001:db8::/32"): Piece(0, 0, PLACE | {"latitude": 42.0}, system),
        IPv4Network("8.8.8.0/24"): Piece(0, 0, PLACE, system),
        IPv4Network("8.8.8.0/25"): Piece(0, 0, PLACE | {"city": "", "state1": ""}, system),
    }
    records = {
        network: sample.record(piece, {"US": "United States"})
        for network, piece in sorted(chosen.items(), key=sample.tree_order)
    }
    for name in ("a.mmdb", "b.mmdb"):
        sample.write(tmp_path / name, records, epoch=1_780_666_922)
        sample.verify(tmp_path / name, records)
    assert (tmp_path / "a.mmdb").read_bytes() == (tmp_path / "b.mmdb").read_bytes()
    with maxminddb.open_database(tmp_path / "a.mmdb") as reader:
        assert reader.metadata().build_epoch == 1_780_666_922
        found: Any = reader.get("2001:db8::1")
        assert json.dumps(found["autonomous_system_number"]) == "42"
        assert json.dumps(found["location"]["latitude"]) == "42.0"
        assert "city" not in json.dumps(reader.get("8.8.8.8"))
        assert "Mountain View" in json.dumps(reader.get("8.8.8.200"))


def test_a_sample_that_reads_otherwise_ends_the_making(tmp_path: Path) -> None:
    records: dict[Network, dict[str, Any]] = {
        IPv4Network("8.8.8.0/24"): sample.record(Piece(0, 0, PLACE, GOOGLE), {"US": "United States"})
    }
    sample.write(tmp_path / "a.mmdb", records, epoch=1)
    records[IPv4Network("8.8.8.0/24")]["autonomous_system_number"] = 1
    with pytest.raises(SystemExit, match="reads"):
        sample.verify(tmp_path / "a.mmdb", records)


def test_a_package_that_is_another_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    package = Package("@scope/name", "1.0.0", "sha512-AAAA")
    (tmp_path / "scope-name-1.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match=r"is not the @scope/name 1\.0\.0 that is pinned"):
        sample.member(tmp_path, package, "data.csv")
