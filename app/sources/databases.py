"""MaxMind DB files: reading them, reading them anew when they are replaced, and finding our fields in their records.

The format says how a file is read (https://maxmind.github.io/MaxMind-DB/), not how its fields are named. Known names:
GeoLite2 and GeoIP2 City, ASN, ISP and Enterprise (https://dev.maxmind.com/geoip/docs/databases), DB-IP
(https://db-ip.com/db/lite.php), IPinfo (https://ipinfo.io/developers/database-download), and the flat files of
ip-location-db (https://github.com/sapics/ip-location-db).
"""

import logging
import struct
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import islice
from os import fstat, stat_result
from pathlib import Path

import maxminddb

from app.address import IPAddress
from app.sources.source import at, pick, split_location

logger = logging.getLogger("geoip")

# The places of each field in a record, the best one first; a number is a place in a list.
_PLACES = {
    "isp": (
        "isp",
        "traits.isp",
        "organization",
        "traits.organization",
        "autonomous_system_organization",
        "traits.autonomous_system_organization",
        "as_name",
    ),
    "city": ("city.names.en", "city"),
    "region": ("subdivisions.0.names.en", "region", "state1"),
    "latitude": ("location.latitude", "latitude", "lat"),
    "longitude": ("location.longitude", "longitude", "lng"),
    "country": ("country.names.en", "country_name"),
    "country_code": ("country.iso_code", "country_code"),
    "postal_code": ("postal.code", "postal_code", "postcode"),
    "timezone": ("location.time_zone", "timezone"),
    "asn": ("autonomous_system_number", "traits.autonomous_system_number", "asn"),
}
_RECORDS_CHECKED = 50
"""Records of a file that are looked at for an ISP or coordinates, among four times as many networks."""
_CHECK_INTERVAL = 1.0
"""Seconds between two looks at whether a file was replaced."""

# Errors that maxminddb raises for damaged contents: InvalidDatabaseError is a RuntimeError.
_DAMAGED = (RuntimeError, TypeError, ValueError)

_Version = tuple[int, int, int]  # inode, size and time of modification, which tell a file from its replacement


class Databases:
    """MaxMind DB files that complete one another: the first file that gives a field decides.

    A file that was replaced is read anew within a second. If the new one is missing or damaged, a warning says so and
    the old contents stay in use. ValueError, of one line that names the file, for a file that is missing or damaged,
    and for files that together hold neither ISPs nor coordinates.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_File(path) for path in paths]
        if not any(file.is_useful for file in self._files):
            names = ", ".join(map(str, paths))
            raise ValueError(f"{names}: neither ISPs nor coordinates in it: name a file of cities or of providers")

    def find(self, address: IPAddress) -> dict[str, object] | None:
        """Return the fields of an Answer for an address, as the files have them; None where no file has a record.

        Latitude and longitude come from the same record. ValueError, of one line, if a file is damaged there.
        """
        records = [record for file in self._files if (record := file.get(address)) is not None]
        found: dict[str, object] = {}
        for record in reversed(records):
            found |= _fields(record)
        return found if records else None


class _File:
    """One file, held in memory: a mapped file kills the process (SIGBUS) when somebody truncates it.

    The price is its size, 60 to 130 MB for a full file of cities, and three times that while it is read anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._reader, self._version, self.is_useful = _read(path)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        self._checked = time.monotonic()

    def get(self, address: IPAddress) -> object:
        """Return the record of an address; ValueError if the file is damaged there."""
        self._check()
        if address.version == 6 and self._reader.metadata().ip_version == 4:
            return None
        try:
            return self._reader.get(address)
        except _DAMAGED as error:
            raise ValueError(f"{self._path}: {error}") from error

    def _check(self) -> None:
        """Read the file anew if it was replaced."""
        if time.monotonic() - self._checked < _CHECK_INTERVAL:
            return
        try:
            version = _version(self._path.stat())
            if version != self._version:
                self._version = version  # even if it is damaged: it is not read again until it is replaced
                reader, self._version, is_useful = _read(self._path)
                if is_useful or not self.is_useful:
                    self._reader, self.is_useful = reader, is_useful
                    logger.info("%s was replaced and read anew", self._path)
                else:
                    logger.warning("%s: neither ISPs nor coordinates in it; the old contents stay in use", self._path)
        except OSError as error:
            self._version = (0, 0, 0)  # it is tried again
            logger.warning("%s: %s; the old contents stay in use", self._path, error.strerror)
        except ValueError as error:
            logger.warning("%s; the old contents stay in use", error)
        self._checked = time.monotonic()


def _read(path: Path) -> tuple[maxminddb.Reader, _Version, bool]:
    """Return reader and version, and tell whether some records have an ISP or coordinates."""
    with path.open("rb") as file:
        version = _version(fstat(file.fileno()))  # before the contents: a later change is then a new version
        contents = file.read()
    try:
        reader = maxminddb.open_database(BytesIO(contents), maxminddb.MODE_FD)
        if _is_cut(reader, contents):
            raise ValueError("the metadata are cut")
        records = islice(_sample(reader), _RECORDS_CHECKED)
        is_useful = any({"isp", "latitude"} & _fields(record).keys() for record in records)
    except _DAMAGED as error:
        raise ValueError(f"{path}: not a MaxMind DB file, or a truncated one") from error
    return reader, version, is_useful


def _version(status: stat_result) -> _Version:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_cut(reader: maxminddb.Reader, contents: bytes) -> bool:
    """Tell whether a file ends within its last number, which maxminddb takes for a shorter one."""
    longer = maxminddb.open_database(BytesIO(contents + b"\xff" * 16), maxminddb.MODE_FD)
    return vars(longer.metadata()) != vars(reader.metadata())


def _sample(reader: maxminddb.Reader) -> Iterator[object]:
    """Return records from the start of each address space; maxminddb's own iterator fails without an IPv4 subtree."""
    starts: list[IPAddress] = [IPv4Address(0)]
    if reader.metadata().ip_version == 6:
        starts.append(IPv6Address("2000::"))
    for address in starts:
        for _ in range(4 * _RECORDS_CHECKED):
            record, prefix = reader.get_with_prefix_len(address)
            if record is not None:
                yield record
            try:
                address = ip_network(f"{address}/{prefix}", strict=False).broadcast_address + 1
            except ValueError:  # that was the last network
                break


def _fields(record: object) -> dict[str, object]:
    """Return the fields that a record gives, by our names."""
    found = pick(record, _PLACES)
    country = at(record, "country")
    if isinstance(country, str):  # IPinfo has the code of a country here in some files, and its name in others
        found.setdefault("country_code" if len(country) == 2 and country.isupper() else "country", country)
    if "isp" not in found and at(record, "asn") is not None:
        found |= pick(record, {"isp": ["name"]})  # otherwise it is the name of something else
    if "latitude" not in found or "longitude" not in found:
        found = {field: value for field, value in found.items() if field not in {"latitude", "longitude"}}
        found |= split_location(at(record, "loc"))
    return {field: _digits(value) for field, value in found.items()}


def _digits(value: object) -> object:
    """Write a number that was stored in 32 bits with the digits that 32 bits have: 37.422000885… is 37.422."""
    if not isinstance(value, float) or not -180 <= value <= 180 or _single(value) != value:
        return value
    return next(short for digits in range(1, 10) if _single(short := float(f"{value:.{digits}g}")) == value)


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
