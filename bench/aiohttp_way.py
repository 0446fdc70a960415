"""The same job with aiohttp's client: `aiohttp_way.py PORT UPSTREAM`.

It runs FastAPI on the same uvicorn, and does for an address what the service does: a cache, one request under way for
each address, at most 64 requests at once, a limit of time and of bytes, and values that are checked.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import aiohttp
import uvicorn
from cachetools import LRUCache
from fastapi import FastAPI, Request, Response
from pydantic import AliasPath, BaseModel, Field

port, upstream = sys.argv[1:]
cache: LRUCache[str, bytes] = LRUCache(10_000)
under_way: dict[str, asyncio.Task[bytes]] = {}
HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=3600", "Vary": "Accept"}


class Found(BaseModel):
    """The part of an answer of ipwho.is that the service answers."""

    ip: str
    isp: str = Field(validation_alias=AliasPath("connection", "isp"))
    asn: int = Field(validation_alias=AliasPath("connection", "asn"))
    timezone: str = Field(validation_alias=AliasPath("timezone", "id"))
    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)
    city: str
    region: str
    country: str
    country_code: str
    postal: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open and close the client."""
    connector = aiohttp.TCPConnector(limit=64, keepalive_timeout=5)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


async def ask(address: str) -> bytes:
    """Ask the upstream, check the answer, and keep it."""
    async with asyncio.timeout(3), app.state.session.get(f"{upstream}/{address}", allow_redirects=False) as response:
        found = Found.model_validate_json(await response.content.read(64 * 1024))
    if found.ip != address:
        raise ValueError("the answer is about another address")
    cache[address] = found.model_dump_json().encode()
    return cache[address]


@app.get("/")
async def locate(request: Request) -> Response:
    """Answer for `?ip=`."""
    address = str(ip_address(request.query_params["ip"]))
    body = cache.get(address)
    if body is None:
        task = under_way.get(address)
        if task is None:
            task = under_way[address] = asyncio.create_task(ask(address))
            task.add_done_callback(lambda _: under_way.pop(address))
        body = await asyncio.shield(task)
    return Response(body, headers=HEADERS, media_type="application/json")


uvicorn.run(app, port=int(port), http="httptools", loop="asyncio", ws="none", log_level="error", access_log=False)
