"""Sources of geo-IP data: each a request and a reading of its answer, all read through one validated model.

What comes from upstream is hostile input. HTTP 200 proves nothing, and no message of a provider is passed on.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import from_json

from app.address import IPAddress, is_global, parse_address
from app.client import Client, ClientError
from app.mmdb import Databases
from app.problems import Problem, QuotaExhausted, UnknownAddress, UpstreamFailed, UpstreamRefused
from app.settings import Settings

# The answer

MAX_TEXT = 200
"""Characters of a name."""


def _number(value: object) -> object:
    """Numbers may come as strings; True is no number, and an empty string is nothing."""
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")  # noqa: TRY004 (pydantic passes a TypeError on)
    return None if value == "" else value


def _rounded(value: float) -> float:
    """Six decimals are a tenth of a metre; 0.0 for -0.0."""
    return round(value, 6) + 0.0


def _text(value: object) -> object:
    return (value.strip() or None) if isinstance(value, str) else value


def _text_or_none(value: object) -> object:
    """What the service does not exist for is left out where it is not what it should be."""
    value = _text(value)
    return value if isinstance(value, str) and len(value) <= MAX_TEXT else None


def _matching(pattern: str) -> BeforeValidator:
    return BeforeValidator(lambda value: value if isinstance(value, str) and re.fullmatch(pattern, value) else None)


def _as_number(value: object) -> object:
    """15169, "15169", "AS15169" or "AS15169 Google LLC" (RFC 5396: asplain)."""
    if isinstance(value, str) and (match := re.match(r"(?:AS)?([0-9]{1,10})\b", value)):
        value = int(match[1])
    return value if type(value) is int and 0 < value < 2**32 else None


_Name = Annotated[str | None, BeforeValidator(_text_or_none)]


class Answer(BaseModel):
    """Where an address is on the internet and on Earth. `null`: the source does not say."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    ip: Annotated[str, Field(description="The address, IPv4 or IPv6 (RFC 5952).", examples=["8.8.8.8"])]
    isp: Annotated[
        Annotated[str, Field(max_length=MAX_TEXT)] | None,
        Field(description="Internet service provider.", examples=["Google LLC"]),
        BeforeValidator(_text),
    ] = None
    latitude: Annotated[
        Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False), AfterValidator(_rounded)] | None,
        Field(description="Degrees north of the equator, WGS 84, at most 6 decimals.", examples=[37.40599]),
        BeforeValidator(_number),
    ] = None
    longitude: Annotated[
        Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False), AfterValidator(_rounded)] | None,
        Field(description="Degrees east of Greenwich, WGS 84, at most 6 decimals.", examples=[-122.078514]),
        BeforeValidator(_number),
    ] = None
    city: Annotated[_Name, Field(description="City.", examples=["Mountain View"])] = None
    region: Annotated[_Name, Field(description="State, province or region.", examples=["California"])] = None
    country: Annotated[_Name, Field(description="Country, its English name.", examples=["United States"])] = None
    country_code: Annotated[
        str | None,
        Field(description="Country, ISO 3166-1 alpha-2.", examples=["US"]),
        _matching("[A-Z]{2}"),
    ] = None
    postal_code: Annotated[_Name, Field(description="Postal code.", examples=["94043"])] = None
    timezone: Annotated[
        str | None,
        Field(description="Time zone, its IANA name.", examples=["America/Los_Angeles"]),
        _matching(r"UTC|[A-Z][A-Za-z_]{1,30}(/[A-Z][A-Za-z0-9_+-]{1,40}){1,2}"),
    ] = None
    asn: Annotated[
        Annotated[int, Field(ge=1, lt=2**32)] | None,
        Field(description="Autonomous system number (RFC 6793).", examples=[15169]),
        BeforeValidator(_as_number),
    ] = None
    source: Annotated[str, Field(description="The source that answered.", examples=["ipwhois"])]


def read_answer(source: str, asked: IPAddress | None, fields: Mapping[str, object]) -> Answer:
    """Make an answer of what a source says of an address (of the service's own: None), its `ip` included.

    UpstreamFailed: a wrong type, a value out of range, another address than the one asked, none on the internet.
    UnknownAddress: neither a provider nor a place.
    """
    try:
        about = parse_address(str(fields["ip"])) if fields.get("ip") else asked
        answer = Answer.model_validate({**fields, "ip": str(about), "source": source})
    except ValueError as error:  # pydantic's ValidationError is one
        reason = (
            "; ".join(f"{e['loc']}: {e['msg']}" for e in error.errors()) if isinstance(error, ValidationError) else "ip"
        )
        raise UpstreamFailed(f"{source} answered with something else than documented", reason=reason) from error
    if about is None or (asked is None and not is_global(about)):
        raise UpstreamFailed(f"{source} does not say which address the service has on the internet")
    if asked is not None and about != asked:
        raise UpstreamFailed(f"{source} answered about another address")
    if answer.latitude is None or answer.longitude is None:
        if answer.isp is None:
            raise UnknownAddress(f"{source} knows neither the provider nor the place of this address")
        return answer.model_copy(update={"latitude": None, "longitude": None})
    return answer


# The sources

DEFAULT_PAUSE = 60
"""Seconds that a source is left alone that refuses and does not say for how long."""

MAX_PAUSE = 3600
"""Seconds that a source is left alone at most, whatever it says."""


class Reply(NamedTuple):
    """What a source answered, and for how many seconds it wants to be left alone from now on."""

    answer: Answer
    pause: int = 0


class Source(ABC):
    """Somebody who can be asked about an address."""

    name: ClassVar[str]

    def open(self) -> None:  # noqa: B027 (not abstract: a file has nothing to open)
        """Do what the first request needs and a start does not; to call it again costs nothing."""

    @abstractmethod
    async def ask(self, address: IPAddress | None) -> Reply:
        """Ask about an address, or about the service's own (None); a Problem where there is no answer."""


class HttpSource(Source):
    """A web API: a request and the reading of its JSON. The public URL is the default of its setting."""

    look_at: ClassVar[str]
    """The variable to look at when it refuses."""

    def __init__(self, client: Client, url: str, key: str | None = None) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._key = key

    @abstractmethod
    def request(self, address: IPAddress | None) -> tuple[str, dict[str, str], dict[str, str]]:
        """Path, query and headers of a request."""

    @abstractmethod
    def read(self, body: dict[str, Any]) -> dict[str, object]:
        """Fields of an Answer, as the JSON has them; a Problem for the error that it may be instead."""

    def open(self) -> None:
        self._client.open()

    async def ask(self, address: IPAddress | None) -> Reply:
        path, params, headers = self.request(address)
        try:
            response = await self._client.get(self._url + path, params, headers)
        except ClientError as error:
            raise UpstreamFailed(f"{self.name} cannot be reached, or broke off", reason=str(error)) from error
        # ip-api.com counts the seconds down in a header of its own.
        pause = read_retry_after(response.headers.get("Retry-After") or response.headers.get("X-Ttl", ""))
        if response.status == 429:
            raise self._quota_exhausted(pause)
        if response.status in (401, 403):
            raise self._refused()
        if response.status not in (200, 404, 422):
            raise UpstreamFailed(f"{self.name} answered with HTTP status {response.status}")
        try:
            body = from_json(response.body, allow_inf_nan=False)
        except ValueError as error:
            raise UpstreamFailed(f"{self.name} answered with something else than JSON") from error
        if not isinstance(body, dict):
            raise UpstreamFailed(f"{self.name} answered with something else than documented")
        try:
            fields = self.read(body)
        except QuotaExhausted:  # in words
            raise self._quota_exhausted(pause) from None
        if response.status != 200:
            raise UpstreamFailed(f"{self.name} answered with HTTP status {response.status}")
        # ip-api.com says beforehand that this was the last one, and bans for an hour who asks on.
        last = response.headers.get("X-Rl") == "0"
        return Reply(read_answer(self.name, address, fields), pause if last else 0)

    def complaint(self, message: object) -> Problem:
        """The problem behind an error message, which is not passed on: it is a stranger's, and may hold the key."""
        text = message.lower() if isinstance(message, str) else ""
        if re.search(r"limit|quota|too many|exceed", text):
            return self._quota_exhausted(DEFAULT_PAUSE)
        if re.search(r"\bkey\b|token|credit|unauthori[sz]ed|restricted", text):
            return self._refused()
        if re.search(r"reserved|private|bogon|(invalid|wrong|correct) (query|ip|address)", text):
            return UnknownAddress(f"{self.name} does not know this address")
        return UpstreamFailed(f"{self.name} answered with an error of its own")

    def text(self, body: dict[str, Any], name: str) -> str:
        """A string that holds several fields; empty where it is missing."""
        text = body.get(name) or ""
        if not isinstance(text, str):
            raise UpstreamFailed(f"{self.name} answered with something else than documented")
        return text

    def section(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        """An object inside the answer; empty where it is missing."""
        section = body.get(name) or {}
        if not isinstance(section, dict):
            raise UpstreamFailed(f"{self.name} answered with something else than documented")
        return section

    def _quota_exhausted(self, pause: int) -> QuotaExhausted:
        return QuotaExhausted(f"{self.name} takes no more requests for now", retry_after=pause)

    def _refused(self) -> UpstreamRefused:
        return UpstreamRefused(f"{self.name} refuses the service: its operator should look at {self.look_at}")


def read_retry_after(value: str) -> int:
    """Seconds of a Retry-After (RFC 9110, 10.2.3), which may be a date: 1 to MAX_PAUSE; DEFAULT_PAUSE for nonsense."""
    try:
        seconds = (
            int(value) if value.isdecimal() else (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError, OverflowError):  # TypeError: a date with no time zone
        return DEFAULT_PAUSE
    return max(1, min(math.ceil(seconds), MAX_PAUSE))


class Ipwhois(HttpSource):
    """https://ipwho.is: no key; low traffic, non-commercial."""

    name = "ipwhois"
    look_at = "GEOIP_IPWHOIS_URL"

    def request(self, address: IPAddress | None) -> tuple[str, dict[str, str], dict[str, str]]:
        return f"/{address or ''}", {}, {}

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if body.get("success") is not True:
            raise self.complaint(body.get("message"))
        connection = self.section(body, "connection")
        return {
            "ip": body.get("ip"),
            "isp": connection.get("isp") or connection.get("org"),
            "latitude": body.get("latitude"),
            "longitude": body.get("longitude"),
            "city": body.get("city"),
            "region": body.get("region"),
            "country": body.get("country"),
            "country_code": body.get("country_code"),
            "postal_code": body.get("postal"),
            "timezone": self.section(body, "timezone").get("id"),
            "asn": connection.get("asn"),
        }


class Ipify(HttpSource):
    """https://geo.ipify.org/docs, version 2, with `country,city`: `country` alone has no coordinates."""

    name = "ipify"
    look_at = "GEOIP_IPIFY_KEY"

    def request(self, address: IPAddress | None) -> tuple[str, dict[str, str], dict[str, str]]:
        query = {"apiKey": self._key or ""} | ({"ipAddress": str(address)} if address else {})
        return "/api/v2/country,city", query, {}

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if "messages" in body:
            raise self.complaint(body["messages"])
        location = self.section(body, "location")
        system = self.section(body, "as")  # absent for IPv6
        return {
            "ip": body.get("ip"),
            "isp": body.get("isp") or system.get("name"),
            "latitude": location.get("lat"),
            "longitude": location.get("lng"),
            "city": location.get("city"),
            "region": location.get("region"),
            "country_code": location.get("country"),
            "postal_code": location.get("postalCode"),
            "asn": system.get("asn"),
        }


class Ipapi(HttpSource):
    """https://ip-api.com/docs/api:json: no key, plain HTTP, 45 requests a minute, non-commercial."""

    name = "ipapi"
    look_at = "GEOIP_IPAPI_URL"

    def request(self, address: IPAddress | None) -> tuple[str, dict[str, str], dict[str, str]]:
        fields = "status,message,country,countryCode,regionName,city,zip,lat,lon,timezone,isp,as,query"
        return f"/json/{address or ''}", {"fields": fields}, {}

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if body.get("status") != "success":
            raise self.complaint(body.get("message"))
        return {
            "ip": body.get("query"),
            "isp": body.get("isp"),
            "latitude": body.get("lat"),
            "longitude": body.get("lon"),
            "city": body.get("city"),
            "region": body.get("regionName"),
            "country": body.get("country"),
            "country_code": body.get("countryCode"),
            "postal_code": body.get("zip"),
            "timezone": body.get("timezone"),
            "asn": body.get("as"),
        }


class Ipinfo(HttpSource):
    """https://ipinfo.io/developers: few requests without a key."""

    name = "ipinfo"
    look_at = "GEOIP_IPINFO_KEY"

    def request(self, address: IPAddress | None) -> tuple[str, dict[str, str], dict[str, str]]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return f"/{address}/json" if address else "/json", {}, headers

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if body.get("bogon") is True:
            raise self.complaint("bogon")
        if "error" in body:
            error = self.section(body, "error")
            raise self.complaint(f"{error.get('title')} {error.get('message')}")
        latitude, _, longitude = self.text(body, "loc").partition(",")
        organization = self.text(body, "org")
        named = re.fullmatch(r"(AS[0-9]+)(?: +(.+))?", organization)
        return {
            "ip": body.get("ip"),
            "isp": named[2] if named else organization,
            "latitude": latitude,
            "longitude": longitude,
            "city": body.get("city"),
            "region": body.get("region"),
            "country_code": body.get("country"),
            "postal_code": body.get("postal"),
            "timezone": body.get("timezone"),
            "asn": named and named[1],
        }


SAMPLE = Path(__file__).with_name("sample.mmdb")
GEODATA = (Path("data/dbip-city.mmdb"), Path("data/dbip-asn.mmdb"))


class Mmdb(Source):
    """MaxMind DB files: those that the settings name, else those of `make geodata`, else the sample of the app."""

    name = "mmdb"

    def __init__(self, paths: Sequence[Path]) -> None:
        self._databases = Databases(paths or [path for path in GEODATA if _is_there(path)] or [SAMPLE])

    async def ask(self, address: IPAddress | None) -> Reply:
        if address is None:
            raise UnknownAddress(
                "mmdb cannot place a caller without an address on the internet: ask for an address, as in /?ip=8.8.8.8"
            )
        try:
            fields = self._databases.find(address)
        except ValueError as error:
            raise UpstreamFailed("mmdb has a damaged file", reason=str(error)) from error
        if fields is None:
            raise UnknownAddress("mmdb does not know this address")
        return Reply(read_answer(self.name, address, fields))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder that is not ours to look into
        raise ValueError(f"{path}: {error.strerror}") from None


def make_sources(settings: Settings, client: Client) -> tuple[Source, ...]:
    """The sources that the settings name, in their order of preference; ValueError for a file that is no good."""
    made: dict[str, Callable[[], Source]] = {
        "ipwhois": lambda: Ipwhois(client, str(settings.ipwhois_url)),
        "ipify": lambda: Ipify(client, str(settings.ipify_url), _secret(settings.ipify_key)),
        "ipapi": lambda: Ipapi(client, str(settings.ipapi_url)),
        "ipinfo": lambda: Ipinfo(client, str(settings.ipinfo_url), _secret(settings.ipinfo_key)),
        "mmdb": lambda: Mmdb([path for path in (settings.mmdb_city, settings.mmdb_asn) if path]),
    }
    return tuple(made[name]() for name in settings.sources)


def _secret(key: SecretStr | None) -> str | None:
    return key.get_secret_value() if key else None
