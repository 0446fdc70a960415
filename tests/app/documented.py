"""The answers that the providers document, and what the service makes of them."""

from dataclasses import dataclass
from typing import Any

from app.problems import Code

KEY = "k3y-that-nobody-may-see"
FIELDS = "status,message,country,countryCode,regionName,city,zip,lat,lon,timezone,isp,as,query"

NULLS: dict[str, object] = dict.fromkeys(
    ("isp", "latitude", "longitude", "city", "region", "country", "country_code", "postal_code", "timezone", "asn")
)


@dataclass(frozen=True)
class Example:
    """A documented answer of a web API, or a record of a file."""

    name: str
    body: dict[str, Any]
    answer: dict[str, object]
    """The fields that are not null."""
    target: str = ""
    """The target of the request, with {ip} for the address."""
    own_target: str = ""
    """The target of the request about the service's own address."""
    path: str = ""
    """Path of the base URL."""
    key: str | None = None


_MOUNTAIN_VIEW: dict[str, object] = {
    "city": "Mountain View",
    "region": "California",
    "country": "United States",
    "country_code": "US",
    "timezone": "America/Los_Angeles",
}
_IPWHOIS: dict[str, object] = {
    "ip": "8.8.4.4",
    "success": True,
    "type": "IPv4",
    "country": "United States",
    "country_code": "US",
    "region": "California",
    "city": "Mountain View",
    "latitude": 37.3860517,
    "longitude": -122.0838511,
    "postal": "94039",
    "connection": {"asn": 15169, "org": "Google LLC", "isp": "Google LLC", "domain": "google.com"},
    "timezone": {"id": "America/Los_Angeles", "utc": "-07:00"},
}
_IPWHOIS_ANSWER = _MOUNTAIN_VIEW | {
    "ip": "8.8.4.4",
    "isp": "Google LLC",
    "latitude": 37.386052,
    "longitude": -122.083851,
    "postal_code": "94039",
    "asn": 15169,
}
_IPAPI: dict[str, object] = {
    "status": "success",
    "country": "Canada",
    "countryCode": "CA",
    "regionName": "Quebec",
    "city": "Montreal",
    "zip": "H1K",
    "lat": 45.6085,
    "lon": -73.5493,
    "timezone": "America/Toronto",
    "isp": "Le Groupe Videotron Ltee",
    "as": "AS5769 Videotron Ltee",
    "query": "24.48.0.1",
}
_IPAPI_ANSWER: dict[str, object] = {
    "ip": "24.48.0.1",
    "isp": "Le Groupe Videotron Ltee",
    "latitude": 45.6085,
    "longitude": -73.5493,
    "city": "Montreal",
    "region": "Quebec",
    "country": "Canada",
    "country_code": "CA",
    "postal_code": "H1K",
    "timezone": "America/Toronto",
    "asn": 5769,
}
_IPINFO: dict[str, object] = {
    "ip": "66.87.125.72",
    "hostname": "ip-66-87-125-72.example.net",
    "city": "Springfield",
    "region": "Massachusetts",
    "country": "US",
    "loc": "42.0999,-72.5783",
    "postal": "01105",
    "timezone": "America/New_York",
}
_IPINFO_ANSWER: dict[str, object] = {
    "ip": "66.87.125.72",
    "isp": "Example Networks Ltd",
    "latitude": 42.0999,
    "longitude": -72.5783,
    "city": "Springfield",
    "region": "Massachusetts",
    "country_code": "US",
    "postal_code": "01105",
    "timezone": "America/New_York",
    "asn": 51501,
}

EXAMPLES: dict[str, list[Example]] = {
    "ipwhois": [
        Example("free", _IPWHOIS, _IPWHOIS_ANSWER, "/{ip}", "/"),
        Example("with a key", _IPWHOIS, _IPWHOIS_ANSWER, f"/{{ip}}?key={KEY}", f"/?key={KEY}", key=KEY),
        Example("behind a path", _IPWHOIS, _IPWHOIS_ANSWER, "/proxy/{ip}", "/proxy/", path="/proxy/"),
        Example(
            "with an organization alone",
            _IPWHOIS | {"connection": {"org": "Google LLC", "isp": ""}},
            {field: value for field, value in _IPWHOIS_ANSWER.items() if field != "asn"},
            "/{ip}",
            "/",
        ),
    ],
    "ipify": [
        Example(
            "IPv4",
            {
                "ip": "8.8.8.8",
                "location": {
                    "country": "US",
                    "region": "California",
                    "city": "Mountain View",
                    "lat": 37.40599,
                    "lng": -122.078514,
                    "postalCode": "94043",
                    "timezone": "-07:00",
                    "geonameId": 5375480,
                },
                "as": {"asn": 15169, "name": "GOOGLE", "route": "8.8.8.0/24", "type": "Content"},
                "isp": "Google LLC",
            },
            {
                "ip": "8.8.8.8",
                "isp": "Google LLC",
                "latitude": 37.40599,
                "longitude": -122.078514,
                "city": "Mountain View",
                "region": "California",
                "country_code": "US",
                "postal_code": "94043",
                "asn": 15169,
            },
            f"/api/v2/country,city?apiKey={KEY}&ipAddress={{ip}}",
            f"/api/v2/country,city?apiKey={KEY}",
            key=KEY,
        ),
        Example(
            "IPv6, which has no AS",
            {"ip": "2a00::1", "location": {"country": "DE", "lat": 0, "lng": 9.5}, "isp": "Example"},
            {"ip": "2a00::1", "isp": "Example", "latitude": 0.0, "longitude": 9.5, "country_code": "DE"},
            f"/api/v2/country,city?apiKey={KEY}&ipAddress={{ip}}",
            f"/api/v2/country,city?apiKey={KEY}",
            key=KEY,
        ),
    ],
    "ipapi": [
        Example("free", _IPAPI, _IPAPI_ANSWER, f"/json/{{ip}}?fields={FIELDS}", f"/json/?fields={FIELDS}"),
        Example(
            "with a key",
            _IPAPI,
            _IPAPI_ANSWER,
            f"/json/{{ip}}?key={KEY}&fields={FIELDS}",
            f"/json/?key={KEY}&fields={FIELDS}",
            key=KEY,
        ),
        Example(
            "with an empty ISP",
            _IPAPI | {"isp": ""},
            _IPAPI_ANSWER | {"isp": "Videotron Ltee"},
            f"/json/{{ip}}?fields={FIELDS}",
            f"/json/?fields={FIELDS}",
        ),
        Example(
            "without an ISP",
            {name: value for name, value in _IPAPI.items() if name != "isp"} | {"as": "AS64500 Ünïcode GmbH"},
            _IPAPI_ANSWER | {"isp": "Ünïcode GmbH", "asn": 64500},
            f"/json/{{ip}}?fields={FIELDS}",
            f"/json/?fields={FIELDS}",
        ),
    ],
    "ipinfo": [
        Example(
            "legacy", _IPINFO | {"org": "AS51501 Example Networks Ltd"}, _IPINFO_ANSWER, "/{ip}/json", "/json", key=KEY
        ),
        Example(
            "without a key", _IPINFO | {"org": "AS51501 Example Networks Ltd"}, _IPINFO_ANSWER, "/{ip}/json", "/json"
        ),
        Example(
            "legacy, AS as an object",
            _IPINFO | {"asn": {"asn": "AS51501", "name": "Example Networks Ltd", "domain": "example.net"}},
            _IPINFO_ANSWER,
            "/{ip}/json",
            "/json",
            key=KEY,
        ),
        Example(
            "Lite",
            {
                "ip": "8.8.8.8",
                "asn": "AS15169",
                "as_name": "Google LLC",
                "as_domain": "google.com",
                "country_code": "US",
                "country": "United States",
                "continent_code": "NA",
                "continent": "North America",
            },
            {"ip": "8.8.8.8", "isp": "Google LLC", "asn": 15169, "country_code": "US", "country": "United States"},
            "/lite/{ip}",
            "/lite/me",
            "/lite",
            KEY,
        ),
        Example(
            "Core",
            {
                "ip": "8.8.8.8",
                "hostname": "dns.google",
                "geo": {
                    "city": "Mountain View",
                    "region": "California",
                    "country": "United States",
                    "country_code": "US",
                    "latitude": 37.4056,
                    "longitude": -122.0775,
                    "timezone": "America/Los_Angeles",
                    "postal_code": "94043",
                },
                "as": {"asn": "AS15169", "name": "Google LLC", "domain": "google.com"},
            },
            _MOUNTAIN_VIEW
            | {
                "ip": "8.8.8.8",
                "isp": "Google LLC",
                "latitude": 37.4056,
                "longitude": -122.0775,
                "postal_code": "94043",
                "asn": 15169,
            },
            "/lookup/{ip}",
            "/lookup/me",
            "/lookup/",
            KEY,
        ),
    ],
    "mmdb": [
        Example(
            "GeoIP2 City and ASN in one",
            {
                "city": {"names": {"en": "Mountain View"}},
                "country": {"iso_code": "US", "names": {"en": "United States"}},
                "location": {"latitude": 37.4, "longitude": -122.1, "time_zone": "America/Los_Angeles"},
                "postal": {"code": "94043"},
                "subdivisions": [{"names": {"en": "California"}}],
                "autonomous_system_number": 15169,
                "autonomous_system_organization": "Google LLC",
            },
            _MOUNTAIN_VIEW
            | {
                "ip": "8.8.8.8",
                "isp": "Google LLC",
                "latitude": 37.4,
                "longitude": -122.1,
                "postal_code": "94043",
                "asn": 15169,
            },
        )
    ],
}

_NO_CREDIT = "Access restricted. Check credits balance or enter the correct API key."

ERRORS: dict[str, list[tuple[int, object, Code]]] = {
    "ipwhois": [
        (200, {"success": False, "message": "Reserved range", "ip": "127.0.0.1"}, "unknown-address"),
        (200, {"success": False, "message": "Invalid IP address"}, "unknown-address"),
        (401, {"success": False, "message": "Invalid API key"}, "upstream-refused"),
        (429, {"success": False, "message": "Too many requests"}, "quota-exhausted"),
        (200, {"success": False, "message": "You've hit the monthly limit"}, "quota-exhausted"),
    ],
    "ipify": [
        (403, {"code": 403, "messages": _NO_CREDIT}, "upstream-refused"),
        (200, {"code": 403, "messages": _NO_CREDIT}, "upstream-refused"),
        (422, {"code": 422, "messages": "Input correct IPv4 or IPv6 address."}, "unknown-address"),
        (429, {"code": 429, "messages": "Too many requests"}, "quota-exhausted"),
    ],
    "ipapi": [
        (200, {"status": "fail", "message": "reserved range", "query": "::1"}, "unknown-address"),
        (200, {"status": "fail", "message": "private range", "query": "10.0.0.1"}, "unknown-address"),
        (200, {"status": "fail", "message": "invalid query", "query": "x"}, "unknown-address"),
        (200, {"status": "fail", "message": "out of order"}, "upstream-failed"),
        (429, b"", "quota-exhausted"),
    ],
    "ipinfo": [
        (200, {"ip": "192.168.1.1", "bogon": True}, "unknown-address"),
        (
            404,
            {"status": 404, "error": {"title": "Wrong ip", "message": "Please provide a valid IP address"}},
            "unknown-address",
        ),
        (403, {"status": 403, "error": {"title": "Unknown token", "message": "Check it"}}, "upstream-refused"),
        (200, {"status": 403, "error": {"title": "Unknown token", "message": "Check it"}}, "upstream-refused"),
        (429, {"status": 429, "error": {"title": "Rate limit exceeded", "message": "…"}}, "quota-exhausted"),
        (200, {"status": 429, "error": {"title": "Rate limit exceeded", "message": "…"}}, "quota-exhausted"),
    ],
}
"""Documented errors: HTTP status, body, and the code that the service makes of them."""
