"""The OpenAPI schema of the one route, as data.

The route does not declare its parameter to FastAPI, which would take the last of several; the route refuses them.
"""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app.answer import Answer
from app.problems import KINDS, ProblemDetails

DESCRIPTION: dict[str, Any] = {
    "title": "geoip",
    "summary": "Looks up the provider and the location of an IP address.",
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "redoc_url": None,
    "swagger_ui_oauth2_redirect_url": None,
    "redirect_slashes": False,
    "telemetry": {"tracing": False, "metrics": False, "logs": False},  # nothing here collects them
}

_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS = {
    "Cache-Control": "`private, no-store` for the caller's own address and for a stale answer, else a maximum age.",
    "Cache-Status": "Whether it is from the cache, and for how many seconds it is kept (RFC 9211).",
}
_ANSWER: dict[str, Any] = {
    "description": "The answer; the page that shows it if `Accept` prefers HTML.",
    "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}},
        "text/html": {"schema": {"type": "string"}},
    },
}


def _problems() -> dict[int | str, dict[str, Any]]:
    """Describe every problem of the route, by status."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    described: dict[int | str, dict[str, Any]] = {}
    for code, kind in KINDS.items():
        if code in {"not-found", "method-not-allowed"}:
            continue
        response = described.setdefault(kind.status, {"description": "", "content": content})
        response["description"] += f"`{code}`: {kind.meaning} "
        if code == "quota-exhausted":
            response["headers"] = _RETRY_AFTER
    return described


OPERATION: dict[str, Any] = {
    "summary": "Look an address up",
    "description": "Looks up the provider and the location of the caller's address, or of another one. A caller whose "
    "address is not global, such as one in a private network, gets the service's own public address.",
    "responses": {200: _ANSWER} | _problems(),
    "openapi_extra": {
        "parameters": [
            {
                "name": "ip",
                "in": "query",
                "description": "One IPv4 or IPv6 address; the caller's own if it is missing.",
                "schema": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
                "example": "8.8.8.8",
            }
        ]
    },
}


class DocumentedAPI(FastAPI):
    """FastAPI, with the schemas that `responses` refers to."""

    def openapi(self) -> dict[str, Any]:
        """Return the schema; FastAPI keeps it."""
        schema = super().openapi()
        if "components" not in schema:
            _, definitions = models_json_schema(
                [(Answer, "serialization"), (ProblemDetails, "serialization")],
                ref_template="#/components/schemas/{model}",
            )
            schema["components"] = {"schemas": definitions["$defs"]}
        return schema
