"""ipinfo.io, https://ipinfo.io/developers: a few requests without a key.

It has three APIs, told apart by the base URL: the legacy one, Lite (`https://api.ipinfo.io/lite`) and Core
(`https://api.ipinfo.io/lookup`). Lite and Core need a key; Lite gives no coordinates.
"""

from typing import Any

from app.address import IPAddress
from app.client import Client
from app.sources.source import HttpSettings, HttpSource, pick, split_as, split_location

# First as the legacy API names a field, then as Lite and Core do. `org` is "AS15169 Google LLC".
_PLACES = {
    "ip": ["ip"],
    "isp": ["asn.name", "as_name", "as.name"],
    "latitude": ["geo.latitude"],
    "longitude": ["geo.longitude"],
    "city": ["city", "geo.city"],
    "region": ["region", "geo.region"],
    "country": ["geo.country"],
    "country_code": ["country_code", "country", "geo.country_code"],
    "postal_code": ["postal", "geo.postal_code"],
    "timezone": ["timezone", "geo.timezone"],
    "asn": ["asn.asn", "asn", "as.asn"],
}


class Ipinfo(HttpSource):
    """`GET https://ipinfo.io/ADDRESS/json`, or `GET …/lite/ADDRESS` and `GET …/lookup/ADDRESS`."""

    name = "ipinfo"
    url = "https://ipinfo.io"

    def __init__(self, settings: HttpSettings, client: Client) -> None:
        super().__init__(settings, client)
        if self.key:
            self.headers["Authorization"] = f"Bearer {self.key}"

    def path(self, address: IPAddress | None) -> str:
        if self.base_url.endswith(("/lite", "/lookup")):
            return f"/{address or 'me'}"
        return f"/{address}/json" if address else "/json"

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if body.get("bogon") is True:
            raise self.error("bogon")
        if "error" in body:
            raise self.error(str(body["error"]))
        found = split_as(body.get("org")) | pick(body, _PLACES)
        if "country_code" in body:  # Lite, whose `country` is a name
            found["country"] = body.get("country")
        return split_location(body.get("loc")) | found
