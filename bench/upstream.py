"""An upstream that answers as ipwho.is does, and is not the bottleneck: `upstream.py PORT SECONDS`."""

import asyncio
import sys
from typing import cast

import uvloop

port, seconds = int(sys.argv[1]), float(sys.argv[2])

BODY = (
    b'{"ip":"%s","success":true,"type":"IPv4","country":"United States","country_code":"US","region":"California",'
    b'"city":"Mountain View","latitude":37.3860517,"longitude":-122.0838511,"postal":"94039",'
    b'"connection":{"asn":15169,"org":"Google LLC","isp":"Google LLC","domain":"google.com"},'
    b'"timezone":{"id":"America/Los_Angeles","utc":"-07:00"}}'
)


class Upstream(asyncio.Protocol):
    """GET requests without a body, on kept connections."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            body = BODY % head[5 : head.index(b" ", 5)].removeprefix(b"?ip=")
            answer = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            if seconds:
                asyncio.get_running_loop().call_later(seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


uvloop.run(main())
