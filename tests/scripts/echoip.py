"""A stand-in for echoip: its options, the types of files that it knows, and the fields of `/json?ip=ADDRESS`."""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import maxminddb

TYPES = {"GeoLite2-City": ("country", "city"), "GeoLite2-ASN": ("asn",)}
"""Of some types that echoip knows, what it finds in them."""

parser = argparse.ArgumentParser()
parser.add_argument("-l")
for option, what in {"-f": "country", "-c": "city", "-a": "asn"}.items():
    parser.add_argument(option, dest=what)
options = parser.parse_args()


def opened(what: str) -> maxminddb.Reader | None:
    """Open the file of an option; None if it is of a type that has nothing of the kind."""
    reader = maxminddb.open_database(getattr(options, what))
    kind = reader.metadata().database_type
    if kind not in TYPES:
        sys.exit(f'echoip: main.go:52: geoip2: reader does not support the "{kind}" database type')
    return reader if what in TYPES[kind] else None


readers = {what: opened(what) for what in ("country", "city", "asn") if getattr(options, what)}


class Handler(BaseHTTPRequestHandler):
    """Answer `/json?ip=ADDRESS`, also about addresses that no file knows."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        url = urlsplit(self.path)
        address = parse_qs(url.query)["ip"][0]
        found: dict[str, Any] = {what: reader.get(address) if reader else None for what, reader in readers.items()}
        fields: dict[str, object] = {"ip": address}
        if country := found.get("country"):
            fields |= {"country": country["country"]["names"]["en"], "country_iso": country["country"]["iso_code"]}
        if place := found.get("city"):
            fields |= place["location"]
            fields |= {"city": place["city"]["names"]["en"]} if "city" in place else {}
            regions = place.get("subdivisions")
            fields |= {"region_name": regions[0]["names"]["en"]} if regions else {}
        if system := found.get("asn"):
            fields |= {"asn": f"AS{system['autonomous_system_number']}"}
            fields |= {"asn_org": system["autonomous_system_organization"]}
        body = json.dumps(fields).encode()
        self.send_response(200 if url.path == "/json" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


host, _, port = options.l.partition(":")
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
