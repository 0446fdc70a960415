"""What else answers the same bytes: `peers.py PORT PEER ANSWER`, a file with headers and body.

A peer runs on the same server as the service, with httptools and asyncio, if its name does not end in -h11 or -uvloop.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn

port, peer, answer = sys.argv[1:]
peer, _, other = peer.partition("-")
recorded = json.loads(Path(answer).read_text())
body: bytes = recorded["body"].encode()
headers: dict[str, str] = recorded["headers"]


def raw() -> Any:  # noqa: ANN401 (an ASGI application)
    """Nothing between the server and the bytes: the ceiling."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def app(_scope: object, _receive: object, send: Any) -> None:  # noqa: ANN401 (each server types ASGI in its own way)
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return app


def starlette() -> object:
    """A route and a response."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def locate(request: Request) -> Response:
        request.query_params["ip"]
        return Response(body, headers=headers)

    return Starlette(routes=[Route("/", locate)])


def fastapi() -> object:
    """A route that returns a dictionary, as most do."""
    from fastapi import FastAPI

    app = FastAPI()
    fields: dict[str, Any] = json.loads(body)

    @app.get("/")
    async def locate(ip: str) -> dict[str, Any]:
        return fields | {"ip": ip}

    return app


application: Any = {"raw": raw, "starlette": starlette, "fastapi": fastapi}[peer]()
config = uvicorn.Config(
    application,
    port=int(port),
    http="h11" if other == "h11" else "httptools",
    loop="uvloop" if other == "uvloop" else "asyncio",
    ws="none",
    lifespan="off",
    log_config=None,
    log_level="warning",
    access_log=False,
    proxy_headers=False,
    server_header=False,
)
uvicorn.Server(config).run()
