"""The article's way: a route of Flask, its development server, and a client of requests made for each request."""

import sys

import requests
from flask import Flask, request

port, upstream = sys.argv[1:]
app = Flask(__name__)


@app.get("/")
def locate() -> dict[str, object]:
    """Return the provider and the location of `?ip=`, or of the caller."""
    address = request.args.get("ip", request.remote_addr)
    answer = requests.get(f"{upstream}/{address}", timeout=3).json()
    return {
        "ip": answer["ip"],
        "isp": answer["connection"]["isp"],
        "latitude": answer["latitude"],
        "longitude": answer["longitude"],
    }


app.run("127.0.0.1", int(port))  # threaded, as it is by default
