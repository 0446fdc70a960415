"""What can go wrong, as problem details for HTTP APIs (RFC 9457)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

# With the type about:blank the title is the status's own phrase (RFC 9457, 4.2.1).
# Not from http.HTTPStatus: what it calls 422 depends on the Python release.
_TITLES = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


Code = Literal[
    "invalid-address",
    "reserved-address",
    "unknown-address",
    "quota-exhausted",
    "upstream-refused",
    "upstream-failed",
    "upstream-timeout",
    "not-found",
    "method-not-allowed",
    "bad-request",
    "internal-error",
]


class SourceProblem(BaseModel):
    """What one of several sources came back with."""

    source: Annotated[str, Field(description="Name of the source.", examples=["ipwhois"])]
    code: Annotated[Code, Field(description="Its problem's code.", examples=["upstream-timeout"])]


class ProblemDetails(BaseModel):
    """A problem as it is sent, `application/problem+json`."""

    type: Annotated[Literal["about:blank"], Field(description="Always `about:blank`: `code` tells problems apart.")] = (
        "about:blank"
    )
    title: Annotated[str, Field(description="The HTTP status in words.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    detail: Annotated[str, Field(description="What happened and what can be done, for people.")]
    code: Annotated[Code, Field(description="Which problem it is, for programs.")]
    sources: Annotated[
        list[SourceProblem] | None, Field(description="Where several sources were asked: what each came back with.")
    ] = None


class Problem(Exception):  # noqa: N818 (the name of RFC 9457; an unknown address is no error)
    """A request that cannot be answered. No part of it holds a secret."""

    status: ClassVar[int]
    code: ClassVar[Code]

    cache_status: str | None = None
    """Where it is from (RFC 9211), where a cache keeps it."""
    upstream_ms: float | None = None
    """Milliseconds that the sources took, where they were asked."""

    def __init__(
        self, detail: str, *, reason: str = "", retry_after: int | None = None, sources: Sequence[SourceProblem] = ()
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        """What anybody may read."""
        self.reason = reason
        """What only the log says beyond that."""
        self.retry_after = retry_after
        """Seconds after which asking again makes sense."""
        self.sources = sources

    def details(self) -> ProblemDetails:
        """The problem as it is sent."""
        return ProblemDetails(
            title=_TITLES[self.status],
            status=self.status,
            detail=self.detail,
            code=self.code,
            sources=list(self.sources) or None,
        )


class InvalidAddress(Problem):
    """`?ip=` is not one IPv4 or IPv6 address."""

    status, code = 422, "invalid-address"


class ReservedAddress(Problem):
    """`?ip=` is an address that nobody can be found at."""

    status, code = 404, "reserved-address"


class UnknownAddress(Problem):
    """Every source answered, and none knows the address."""

    status, code = 404, "unknown-address"


class QuotaExhausted(Problem):
    """A source refuses for now: its quota is used up."""

    status = 503
    code: ClassVar[Literal["quota-exhausted"]] = "quota-exhausted"


class UpstreamRefused(Problem):
    """A source refuses for good: a key is missing or wrong."""

    status = 502
    code: ClassVar[Literal["upstream-refused"]] = "upstream-refused"


class UpstreamFailed(Problem):
    """A source cannot be reached, or gave no answer of the documented shape."""

    status, code = 502, "upstream-failed"


class UpstreamTimeout(Problem):
    """A source said nothing within its share of the budget."""

    status, code = 504, "upstream-timeout"


class NotFound(Problem):
    """There is no such path."""

    status, code = 404, "not-found"


class MethodNotAllowed(Problem):
    """The path is there, but not for this method."""

    status, code = 405, "method-not-allowed"


class BadRequest(Problem):
    """What came is no HTTP/1.1, or more of it than is read."""

    status, code = 400, "bad-request"


class InternalError(Problem):
    """A bug."""

    status, code = 500, "internal-error"
