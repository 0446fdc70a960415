"""Everything that can go wrong, as problem details for HTTP APIs (RFC 9457)."""

from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

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


class Kind(NamedTuple):
    """The status and the meaning of all problems with one code."""

    status: int
    meaning: str


KINDS: dict[Code, Kind] = {
    "invalid-address": Kind(422, "`ip` is not one IPv4 or IPv6 address."),
    "reserved-address": Kind(404, "`ip` is not a global address: no source is asked about it."),
    "unknown-address": Kind(404, "Every source answered, and none knows the address."),
    "quota-exhausted": Kind(503, "A source refuses for now: its quota is used up."),
    "upstream-refused": Kind(502, "A source refuses: a key is missing or wrong."),
    "upstream-failed": Kind(502, "A source cannot be reached, or its answer does not have the documented shape."),
    "upstream-timeout": Kind(504, "A source did not answer in time."),
    "not-found": Kind(404, "There is no such path."),
    "method-not-allowed": Kind(405, "The path does not allow this method."),
    "bad-request": Kind(400, "The request is not valid HTTP/1.1, is too large, or is a refused CORS preflight."),
    "internal-error": Kind(500, "The service has a bug."),
}


class SourceProblem(BaseModel):
    """The problem that one of several sources had."""

    model_config = ConfigDict(json_schema_extra={"description": "The problem that one of several sources had."})

    source: Annotated[str, Field(description="Name of the source.", examples=["ipwhois"])]
    code: Annotated[Code, Field(description="Code of its problem.", examples=["upstream-timeout"])]


class ProblemDetails(BaseModel):
    """A problem as it is sent, `application/problem+json`."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"description": "A problem, as RFC 9457 has it."})

    type: Annotated[Literal["about:blank"], Field(description="Always `about:blank`: `code` tells problems apart.")] = (
        "about:blank"
    )
    title: Annotated[str, Field(description="The HTTP status in words.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    detail: Annotated[str, Field(description="What happened, then what to do, for people.")]
    code: Annotated[Code, Field(description="Which problem it is, for programs.")]
    sources: Annotated[
        list[SourceProblem] | None, Field(description="The problem of each source, where several were asked.")
    ] = None


Fault = Literal["answer", "server", "connection"]
"""Where a problem lies: in one answer, in the source's server (a timeout, HTTP 5xx, no HTTP), or in the way to it."""


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 (the name of RFC 9457)
    """A request that cannot be answered. `detail` and `sources` are sent, so they hold no secret."""

    code: Code
    detail: str
    _: KW_ONLY
    reason: str = ""
    """For the log alone."""
    fault: Fault = "answer"
    retry_after: int | None = None
    """Seconds after which it makes sense to ask again."""
    sources: list[SourceProblem] | None = None

    def __post_init__(self) -> None:
        super().__init__(self.detail)
        self.status = KINDS[self.code].status

    @property
    def title(self) -> str:
        """The phrase of the status, as it is for the type about:blank. Python before 3.13 has an older one for 422."""
        return "Unprocessable Content" if self.status == 422 else HTTPStatus(self.status).phrase
