"""Responses that are the same everywhere: their headers, and problems."""

from starlette.responses import Response

from app.problems import Problem, ProblemDetails

# Always with the CORS fields: a cache may reuse one answer for requests of either kind.
HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Cache-Status, Retry-After",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}

ALLOWED_METHODS = "GET, HEAD"


def problem_response(problem: Problem, cache_status: str = "") -> Response:
    """Return a problem as `application/problem+json`, never cached by others."""
    headers = HEADERS | {"Cache-Control": "no-store"}
    if cache_status:
        headers["Cache-Status"] = cache_status
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.code == "method-not-allowed":
        headers["Allow"] = ALLOWED_METHODS
    return Response(
        ProblemDetails.model_validate(problem).model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )
