"""ipify.org, https://geo.ipify.org/docs: needs a key, and counts credits."""

from typing import Any

from app.address import IPAddress
from app.sources.source import HttpSource, pick, query

_PLACES = {
    "ip": ["ip"],
    "isp": ["isp", "as.name"],  # `as` is absent for IPv6
    "latitude": ["location.lat"],
    "longitude": ["location.lng"],
    "city": ["location.city"],
    "region": ["location.region"],
    "country_code": ["location.country"],
    "postal_code": ["location.postalCode"],
    "asn": ["as.asn"],
}


class Ipify(HttpSource):
    """`GET /api/v2/country,city`: `/country` alone has no coordinates."""

    name = "ipify"
    url = "https://geo.ipify.org"
    needs_key = True

    def path(self, address: IPAddress | None) -> str:
        return f"/api/v2/country,city{query(apiKey=self.key, ipAddress=str(address or ''))}"

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if "messages" in body:
            raise self.error(body["messages"])
        return pick(body, _PLACES)
