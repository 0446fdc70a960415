"""The answer. All that a source says passes through `read_answer`: sources are hostile input."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.address import IPAddress, is_global, parse_address
from app.problems import Problem
from app.registries import COUNTRY_CODES

MAX_TEXT = 200
"""Characters of a name; longer ones are cut."""

MAX_STALE = 86_400
"""Seconds after its expiry for which an answer is still better than an error."""

_TIMEZONE = re.compile(r"UTC|[A-Z][A-Za-z_]{1,30}(/[A-Z][A-Za-z0-9_+-]{1,40}){1,2}")
_AS_NUMBER = re.compile(r"(?P<prefix>AS)?(?P<high>\d{1,10})(?:\.(?P<low>\d{1,5}))?\b", re.ASCII | re.IGNORECASE)


def _number(value: object) -> object:
    """Accept a number written as text, take an empty text for nothing, and refuse truth values, 0 and 1 to pydantic."""
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")  # noqa: TRY004 (pydantic passes a TypeError on)
    return None if isinstance(value, str) and not value.strip() else value


def _rounded(value: float) -> float:
    """Keep six decimals, a tenth of a metre; -0.0 becomes 0.0."""
    return round(value, 6) + 0.0


def _text(value: object) -> object:
    """Strip a text, and cut one that is too long; an empty one is nothing."""
    return (value.strip()[:MAX_TEXT].rstrip() or None) if isinstance(value, str) else value


def _country_code(value: object) -> object:
    return value if isinstance(value, str) and value in COUNTRY_CODES else None


def _timezone(value: object) -> object:
    return value if isinstance(value, str) and _TIMEZONE.fullmatch(value) else None


def _as_number(value: object) -> object:
    """Read 15169, 15169.0, "15169", "AS15169", "AS15169 Google LLC" and asdot, "AS1.10" (RFC 5396)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and (match := _AS_NUMBER.match(value)):
        high, low = int(match["high"]), int(match["low"] or 0)
        if match["low"] is None or (low == 0 and not match["prefix"]):
            value = high
        elif high < 2**16 and low < 2**16:
            value = high * 2**16 + low
    return value if type(value) is int and 0 < value < 2**32 else None


_Name = Annotated[str | None, BeforeValidator(lambda value: _text(value) if isinstance(value, str) else None)]


class Answer(BaseModel):
    """An answer of a source, validated. Its schema is described below, since a frozen app has no docstrings."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_serialization_defaults_required=True,
        json_schema_extra={"description": "Provider and location of an IP address. null: the source does not say."},
    )

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
        Field(description="Country, ISO 3166-1 alpha-2, or XK for Kosovo.", examples=["US"]),
        BeforeValidator(_country_code),
    ] = None
    postal_code: Annotated[_Name, Field(description="Postal code.", examples=["94043"])] = None
    timezone: Annotated[
        str | None,
        Field(description="Time zone, its IANA name.", examples=["America/Los_Angeles"]),
        BeforeValidator(_timezone),
    ] = None
    asn: Annotated[
        Annotated[int, Field(ge=1, lt=2**32)] | None,
        Field(description="Autonomous system number (RFC 6793).", examples=[15169]),
        BeforeValidator(_as_number),
    ] = None
    source: Annotated[str, Field(description="The source that answered.", examples=["ipwhois"])]


def read_answer(source: str, asked: IPAddress | None, fields: Mapping[str, object]) -> Answer:
    """Make an answer of the fields that a source gives for an address, or for the service's own (None).

    `fields` has the names of Answer. Problem `upstream-failed` for an address, an ISP or coordinates that are not
    valid, and for an answer about another address; `unknown-address` for neither an ISP nor coordinates. Any other
    field that is not valid becomes null.
    """
    try:
        about = parse_address(str(fields["ip"])) if fields.get("ip") else asked
        answer = Answer.model_validate({**fields, "ip": str(about), "source": source})
    except ValidationError as error:
        reason = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise Problem("upstream-failed", f"{source} sent an answer that is not valid", reason=reason) from error
    except ValueError as error:
        raise Problem("upstream-failed", f"{source} sent an answer that is not valid", reason="ip") from error
    if about is None or (asked is None and not is_global(about)):
        raise Problem("upstream-failed", f"{source} does not say which public address the service has")
    if asked is not None and about != asked:
        raise Problem("upstream-failed", f"{source} answered about another address")
    if not _is_placed(answer, fields.get("country_code")):
        if answer.isp is None:
            raise Problem("unknown-address", f"{source} knows neither the provider nor the location of this address")
        return answer.model_copy(update={"latitude": None, "longitude": None})
    return answer


def _is_placed(answer: Answer, code: object) -> bool:
    """Tell whether there are coordinates. 0, 0 with a code that is not a country's, such as ZZ, means "unknown"."""
    if answer.latitude is None or answer.longitude is None:
        return False
    return bool(answer.latitude or answer.longitude or not code or answer.country_code)


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a lookup: the JSON of an Answer, or the problem of an unknown address."""

    body: bytes
    """The JSON, made once; empty if no source knows the address."""
    source: str
    """Name of the source that answered."""
    expires: float
    """Seconds on the clock of the lookup."""
    problem: Problem | None = None
    """Why there is no answer."""

    def time_left(self, now: float) -> int:
        """Seconds until it expires; below 0 afterwards."""
        return math.floor(self.expires - now)

    def hit_status(self, now: float) -> str:
        """Value of the Cache-Status field (RFC 9211) of a hit."""
        return f"geoip; hit; ttl={self.time_left(now)}"
