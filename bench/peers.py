"""The ceilings of a hit: `peers.py PORT PEER ANSWER` answers what a file of headers and body says.

`raw` is an ASGI callable: nothing is between the server and the bytes. `fastapi` is a route that returns a dictionary.
Both run on the service's server: uvicorn with httptools and asyncio.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

port, peer, answer = sys.argv[1:]
recorded = json.loads(Path(answer).read_text())
body = recorded["body"].encode()
headers = [(name.encode(), value.encode()) for name, value in recorded["headers"].items()]
fields: dict[str, Any] = json.loads(body)
framework = FastAPI()


async def raw(_scope: object, _receive: object, send: Any) -> None:  # noqa: ANN401 (each server types ASGI in its own way)
    """Send the bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@framework.get("/")
async def locate(ip: str) -> dict[str, Any]:
    """Return the answer's fields."""
    return fields | {"ip": ip}


peers: dict[str, Any] = {"raw": raw, "fastapi": framework}
uvicorn.run(
    peers[peer],
    port=int(port),
    http="httptools",
    loop="asyncio",
    ws="none",
    lifespan="off",
    log_level="error",
    access_log=False,
    proxy_headers=False,
    server_header=False,
)
