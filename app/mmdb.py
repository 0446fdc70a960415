"""Records about an address from MaxMind DB files, whoever publishes them.

The format says how a file is read (https://maxmind.github.io/MaxMind-DB/), not what its records are called. Known here:
GeoLite2 and GeoIP2 City, ASN, ISP and Enterprise (https://dev.maxmind.com/geoip/docs/databases), DB-IP
(https://db-ip.com/db/lite.php), IPinfo (https://ipinfo.io/developers/database-download), and the flat files that
ip-location-db makes of some of them (https://github.com/sapics/ip-location-db).
"""

import logging
import time
from collections.abc import Sequence
from io import BytesIO
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from os import fstat, stat_result
from pathlib import Path

import maxminddb
from maxminddb.decoder import Decoder

logger = logging.getLogger("geoip")

# Where each field may stand in a record, the best place first; a number is a place in a list.
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
    "country": ("country.names.en", "country_name", "country"),
    "country_code": ("country.iso_code", "country_code", "country"),
    "postal_code": ("postal.code", "postal_code", "postcode"),
    "timezone": ("location.time_zone", "timezone"),
    "asn": ("autonomous_system_number", "traits.autonomous_system_number", "asn"),
}
_COORDINATES = (("location.latitude", "location.longitude"), ("latitude", "longitude"), ("lat", "lng"))
_FIELDS = (*_PLACES, "latitude", "longitude")

# A file that holds other things altogether (connection types, domains) is told by its first records.
_RECORDS_CHECKED = 100
_LOOK_EVERY = 1.0  # seconds

# What the metadata, the last part of a file, begin with.
_METADATA = b"\xab\xcd\xefMaxMind.com"

# What maxminddb raises for damaged contents: InvalidDatabaseError is a RuntimeError; the others come from metadata
# without a key, a map with a key that is none, text that is not UTF-8.
_DAMAGED = (RuntimeError, TypeError, ValueError)


_Version = tuple[int, int, int]  # inode, size, time of modification: what tells a file from the one that replaces it


class Databases:
    """MaxMind DB files that complete one another: of each field, the first file that gives it decides.

    A file that was replaced is read anew within a second. If the new one is missing or broken, a warning says so and
    the old contents stay in use.

    Raises:
        ValueError: a file is missing, no MaxMind DB, truncated, or has none of our fields; one line that names it.

    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_File(path) for path in paths]

    def find(self, address: IPv4Address | IPv6Address) -> dict[str, object] | None:
        """Return isp, latitude, longitude, city, region, country, country_code, postal_code, timezone and asn.

        Values are as the files have them, neither checked nor converted (an ASN may be `15169` or `"AS15169"`), and
        None where no file gives one. Latitude and longitude always come from the same record. None alone means that
        no file has a record for the address.

        A file whose contents turn out to be damaged is left out, and a warning says so.

        Raises:
            ValueError: one is damaged and no other has a record; one line that names the file.

        """
        records = []
        damages = []
        for file in self._files:
            try:
                record = file.get(address)
            except ValueError as damage:
                damages.append((file, damage))
                continue
            if record is not None:
                records.append(record)
        if not records:
            if damages:
                raise damages[0][1]
            return None
        for file, found_out in damages:
            file.warn(f"{found_out}; the other files are used")
        found: dict[str, object] = dict.fromkeys(_FIELDS)
        for record in reversed(records):
            found.update(_fields(record))
        return found


class _File:
    """One file, held in memory.

    In memory because mapping a file (the library's default) kills the process with SIGBUS once somebody truncates it,
    as `cp new.mmdb city.mmdb` does; and a single file that is mounted into a container can be replaced in no other
    way. The price is the file's size, 256 kB for the sample and 60 to 130 MB for a full city file, twice that while
    it is read anew, which holds up everything else meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._reader, self._version = _read(path)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        self._looked = time.monotonic()
        self._warning: str | None = None

    def get(self, address: IPv4Address | IPv6Address) -> object:
        self._look()
        reader = self._reader
        if address.version == 6 and reader.metadata().ip_version == 4:
            return None
        try:
            return reader.get(address)
        except _DAMAGED as error:
            raise ValueError(f"{self._path}: {error}") from error

    def warn(self, warning: str) -> None:
        """Log it, once: a slow copy onto the file is another broken one every second."""
        if warning != self._warning:
            self._warning = warning
            logger.warning("%s", warning)

    def _look(self) -> None:
        """Read the file anew if it is another one than before."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        try:
            version = _version(self._path.stat())
            if version != self._version:
                try:
                    self._reader, self._version = _read(self._path)
                except ValueError:
                    self._version = version  # not read again until it is yet another one
                    raise
                self._warning = None
                logger.info("%s was replaced and read anew", self._path)
        except (OSError, ValueError) as error:
            reason = f"{self._path}: {error.strerror}" if isinstance(error, OSError) else error
            self.warn(f"{reason}; the old contents stay in use")
        self._looked = time.monotonic()


def _read(path: Path) -> tuple[maxminddb.Reader, _Version]:
    try:
        # The version is that of the file that was opened, before it was read: a later change is a new version.
        with path.open("rb") as file:
            version = _version(fstat(file.fileno()))
            contents = file.read()
        reader = maxminddb.open_database(BytesIO(contents), maxminddb.MODE_FD)
        # maxminddb takes a last value that the file ends within for a shorter one.
        start = contents.rindex(_METADATA) + len(_METADATA)
        if Decoder(contents, start).decode(start)[1] > len(contents):
            raise ValueError("the metadata end after the file")
        known = any(_fields(record) for _, record in islice(reader, _RECORDS_CHECKED))
    except _DAMAGED as error:
        raise ValueError(f"{path}: not a MaxMind DB file, or a truncated one") from error
    if not known:
        kind = reader.metadata().database_type
        raise ValueError(f"{path}: a MaxMind DB file of another kind ({kind!r}), with neither place nor ISP")
    return reader, version


def _version(status: stat_result) -> _Version:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _fields(record: object) -> dict[str, object]:
    """Return the fields that a record gives, under our names."""
    found: dict[str, object] = {}
    for field, places in _PLACES.items():
        for place in places:
            value = _at(record, place)
            # IPinfo has the code of a country under `country` in some files, its name in others.
            if place == "country" and _is_country_code(value) != (field == "country_code"):
                continue
            if value is not None and not isinstance(value, dict | list):
                found[field] = value
                break
    pairs = [(_at(record, latitude), _at(record, longitude)) for latitude, longitude in _COORDINATES]
    first, _, second = str(_at(record, "loc") or "").partition(",")
    for latitude, longitude in (*pairs, (first or None, second or None)):
        if latitude is not None and longitude is not None:
            found |= {"latitude": latitude, "longitude": longitude}
            break
    return found


def _at(record: object, place: str) -> object:
    """Return what stands at a place of a record; an empty text is how flat files write that there is nothing."""
    value = record
    for key in place.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return None if value == "" else value


def _is_country_code(value: object) -> bool:
    return isinstance(value, str) and len(value) == 2 and value.isupper()
