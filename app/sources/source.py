"""The common part of all sources: settings, a request, and the reading of its answer."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlencode

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, ConfigDict, SecretStr, model_validator
from pydantic_core import from_json

from app.address import IPAddress
from app.answer import Answer, read_answer
from app.client import Client
from app.connection import ClientError, Response
from app.problems import Fault, Problem

DEFAULT_PAUSE = 60
"""Seconds of a source's pause if it does not say for how long it refuses."""

MAX_PAUSE = 3600
"""Seconds of a source's pause at most, whatever it says."""


class Source(ABC):
    """A source of answers. It declares its name and its settings: `GEOIP_NAME_FIELD` for each field of the model."""

    name: ClassVar[str]
    needs_key: ClassVar[bool] = False
    settings_model: ClassVar[type[BaseModel]]

    @abstractmethod
    def __init__(self, settings: Any, client: Client) -> None:  # noqa: ANN401 (an instance of settings_model)
        """ValueError, of one line, for settings that turn out to be wrong."""

    @abstractmethod
    async def ask(self, address: IPAddress | None) -> Answer:
        """Ask about an address, or about the service's own (None); a Problem if there is no answer."""


def comma_separated(value: object) -> object:
    """Split the value of a setting that is a list."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


def _base_url(url: AnyHttpUrl) -> AnyHttpUrl:
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("a base URL has no user, no password and no query")
    return url


def _key(secret: SecretStr) -> SecretStr:
    """Strip a key, which may come with the line break of its file, and refuse what cannot be one."""
    key = secret.get_secret_value().strip()
    if not re.fullmatch("[!-~]+", key):
        raise ValueError("a key has no spaces, no line breaks and no characters beyond ASCII")
    if re.search("[\"']|^[A-Z_]+=", key):
        raise ValueError("a key is written without quotes, and without the name of the variable before it")
    return SecretStr(key)


def _key_file(path: str) -> str:
    """Read the file that holds a key."""
    try:
        key = Path(path).read_text("utf-8-sig").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise ValueError(f"{path} cannot be read: {reason}") from None
    if not key:
        raise ValueError(f"{path} is empty")
    return key


_Key = Annotated[SecretStr, AfterValidator(_key)]


class HttpSettings(BaseModel):
    """Settings of a source that is a web API."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: Annotated[AnyHttpUrl, AfterValidator(_base_url)] | None = None
    """Base URL, for another plan, a proxy or a test."""
    key: _Key | None = None
    key_file: Annotated[_Key, BeforeValidator(_key_file)] | None = None
    """The key, from the file that is named."""

    @property
    def secret(self) -> str:
        """The key, from wherever it came; empty if there is none."""
        key = self.key or self.key_file
        return key.get_secret_value() if key else ""

    @model_validator(mode="after")
    def _one_key(self) -> "HttpSettings":
        if self.key and self.key_file:
            raise ValueError("the key and the file of the key are both set: keep one of them")
        return self


class HttpSource(Source):
    """A web API that answers with JSON."""

    settings_model = HttpSettings
    url: ClassVar[str]
    """Public base URL."""
    url_with_key: ClassVar[str] = ""
    """Public base URL for those who have a key, if it is another one."""
    retry_after: ClassVar[str] = "retry-after"
    """Header that says for how many seconds the source refuses."""

    def __init__(self, settings: HttpSettings, client: Client) -> None:
        self._client = client
        self.key = settings.secret
        default = self.url_with_key if self.key and self.url_with_key else self.url
        self.base_url = str(settings.url or default).rstrip("/")
        self.headers: dict[str, str] = {}

    @abstractmethod
    def path(self, address: IPAddress | None) -> str:
        """Return path and query of a request, to be put behind the base URL."""

    @abstractmethod
    def read(self, body: dict[str, Any]) -> dict[str, object]:
        """Return the values of the JSON by the names of Answer, not yet checked; a Problem for an error message."""

    async def ask(self, address: IPAddress | None) -> Answer:
        try:
            response = await self._client.get(self.base_url + self.path(address), self.headers)
        except ClientError as error:
            what = "sent an answer that is not valid" if error.fault == "answer" else "cannot be reached"
            raise Problem("upstream-failed", f"{self.name} {what}", reason=str(error), fault=error.fault) from error
        self._check_status(response)
        try:
            body = from_json(response.body, allow_inf_nan=False)
        except ValueError as error:
            raise Problem("upstream-failed", f"{self.name} sent an answer that is not JSON") from error
        if not isinstance(body, dict):
            raise Problem("upstream-failed", f"{self.name} sent an answer that is not valid")
        fields = self.read(body)
        if response.status != 200:
            raise Problem("upstream-failed", f"{self.name} sent HTTP status {response.status}")
        return read_answer(self.name, address, fields)

    def error(self, message: object) -> Problem:
        """Return the problem behind an error message, which is not passed on: it may hold the key."""
        text = message.lower() if isinstance(message, str) else ""
        if re.search(r"limit|quota|too many|exceed", text):
            return self._quota_exhausted(DEFAULT_PAUSE)
        if re.search(r"\bkey\b|token|credit|unauthori[sz]ed|restricted", text):
            return self._refused()
        if re.search(r"reserved|private|bogon|(invalid|wrong|correct) (query|ip|address)|valid ip", text):
            return Problem("unknown-address", f"{self.name} does not know this address")
        return Problem("upstream-failed", f"{self.name} sent an error message")

    def _check_status(self, response: Response) -> None:
        """Raise the Problem that an HTTP status says, also for a redirect; 404 and 422 bring their reason as JSON."""
        wait = response.headers.get(self.retry_after) or response.headers.get("retry-after", "")
        if response.status == 429 or (response.status == 503 and "retry-after" in response.headers):
            raise self._quota_exhausted(read_retry_after(wait))
        if response.status in {401, 403}:
            raise self._refused()
        if response.status not in {200, 404, 422}:
            fault: Fault = "server" if response.status >= 500 else "answer"
            raise Problem("upstream-failed", f"{self.name} sent HTTP status {response.status}", fault=fault)

    def _quota_exhausted(self, pause: int) -> Problem:
        return Problem("quota-exhausted", f"{self.name} says that its quota is used up", retry_after=pause)

    def _refused(self) -> Problem:
        variable = f"GEOIP_{self.name.upper()}_KEY"
        return Problem("upstream-refused", f"{self.name} refuses the request: check {variable}")


def query(**parameters: str) -> str:
    """Return the parameters that are not empty as the query of a URL, with its question mark."""
    encoded = urlencode({name: value for name, value in parameters.items() if value})
    return f"?{encoded}" if encoded else ""


def at(record: object, place: str) -> object:
    """Return the value at a place, such as `location.lat` or `subdivisions.0.name`; None if it is missing or empty."""
    for key in place.split("."):
        if isinstance(record, dict):
            record = record.get(key)
        elif isinstance(record, list) and key.isdecimal() and int(key) < len(record):
            record = record[int(key)]
        else:
            return None
    return None if record == "" else record


def pick(record: object, places: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Return the fields that a record has: each from the first of its places that holds a single value."""
    found: dict[str, object] = {}
    for field, candidates in places.items():
        for place in candidates:
            value = at(record, place)
            if value is not None and not isinstance(value, (dict, list)):
                found[field] = value
                break
    return found


def split_as(value: object) -> dict[str, object]:
    """Return `asn` and `isp` of a text like "AS15169 Google LLC"; without a number it is the ISP."""
    match = re.fullmatch(r"(AS[0-9.]+)?\s*(.*)", value.strip()) if isinstance(value, str) else None
    return {"asn": match[1], "isp": match[2]} if match else {}


def split_location(value: object) -> dict[str, object]:
    """Return the coordinates of a text like "37.386,-122.0838"; nothing if it does not have both."""
    latitude, _, longitude = value.partition(",") if isinstance(value, str) else ("", "", "")
    return {"latitude": latitude, "longitude": longitude} if latitude and longitude else {}


def read_retry_after(value: str) -> int:
    """Read the seconds of a Retry-After (RFC 9110, 10.2.3), or its date: 1 to MAX_PAUSE; DEFAULT_PAUSE for nonsense."""
    try:
        seconds = (
            int(value) if value.isdecimal() else (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a time zone
        return DEFAULT_PAUSE
    return max(1, min(math.ceil(seconds), MAX_PAUSE))
