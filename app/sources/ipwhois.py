"""ipwhois.io, https://ipwhois.io/documentation: free without a key for low traffic, not for business."""

from typing import Any

from app.address import IPAddress
from app.sources.source import HttpSource, pick, query

_PLACES = {
    "ip": ["ip"],
    "isp": ["connection.isp", "connection.org"],
    "latitude": ["latitude"],
    "longitude": ["longitude"],
    "city": ["city"],
    "region": ["region"],
    "country": ["country"],
    "country_code": ["country_code"],
    "postal_code": ["postal"],
    "timezone": ["timezone.id"],
    "asn": ["connection.asn"],
}


class Ipwhois(HttpSource):
    """`GET https://ipwho.is/ADDRESS`; with a key, `https://ipwhois.pro/ADDRESS?key=KEY`."""

    name = "ipwhois"
    url = "https://ipwho.is"
    url_with_key = "https://ipwhois.pro"

    def path(self, address: IPAddress | None) -> str:
        return f"/{address or ''}{query(key=self.key)}"

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if body.get("success") is not True:
            raise self.error(body.get("message"))
        return pick(body, _PLACES)
