"""ip-api.com, https://ip-api.com/docs/api:json: free over plain HTTP, 45 requests a minute, not for business."""

from typing import Any

from app.address import IPAddress
from app.sources.source import HttpSource, pick, query, split_as

_FIELDS = "status,message,country,countryCode,regionName,city,zip,lat,lon,timezone,isp,as,query"
_PLACES = {
    "ip": ["query"],
    "isp": ["isp"],
    "latitude": ["lat"],
    "longitude": ["lon"],
    "city": ["city"],
    "region": ["regionName"],
    "country": ["country"],
    "country_code": ["countryCode"],
    "postal_code": ["zip"],
    "timezone": ["timezone"],
}


class Ipapi(HttpSource):
    """`GET http://ip-api.com/json/ADDRESS`; with a key, `https://pro.ip-api.com/json/ADDRESS?key=KEY`."""

    name = "ipapi"
    url = "http://ip-api.com"
    url_with_key = "https://pro.ip-api.com"
    retry_after = "x-ttl"

    def path(self, address: IPAddress | None) -> str:
        return f"/json/{address or ''}{query(key=self.key, fields=_FIELDS)}"

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if body.get("status") != "success":
            raise self.error(body.get("message"))
        return split_as(body.get("as")) | pick(body, _PLACES)
