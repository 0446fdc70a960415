"""Settings, from the environment or a .env file; a wrong one is a ValueError of one line that echoes no secret."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SourceName = Literal["ipwhois", "ipify", "ipapi", "ipinfo", "mmdb"]


def _comma_separated(value: object) -> object:
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


def _lower_case(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _source_name(name: object) -> object:
    if name not in get_args(SourceName):
        raise ValueError(f"there is no source {str(name)[:40]!r}; there are {', '.join(get_args(SourceName))}")
    return name


def _trusted_network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} is not an address or a network ({error})") from None
    if network.prefixlen == 0:
        raise ValueError(f"{text} would trust every client's word about itself")
    return network


def _base_url(url: AnyHttpUrl) -> AnyHttpUrl:
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("a base URL has neither a user, nor a password, nor a query")
    return url


def _stripped(key: object) -> object:
    return key.strip() if isinstance(key, str) else key  # whoever fills a variable from a file has its line break too


def _printable(key: SecretStr) -> SecretStr:
    # What could break out of a header is refused here, before a library refuses it and shows it.
    if not re.fullmatch("[!-~]+", key.get_secret_value()):
        raise ValueError("a key has no spaces, no line breaks and no letters beyond ASCII")
    return key


def _redis_url(url: SecretStr) -> SecretStr:
    try:
        parsed = TypeAdapter(RedisDsn).validate_python(url.get_secret_value())
    except ValidationError:  # which would show the URL, and so a password in it
        raise ValueError("not a URL such as redis://HOST:6379/0 or rediss://USER:PASSWORD@HOST:6379/0") from None
    if not re.fullmatch("(/[0-9]*)?", parsed.path or ""):  # redis would take what is no number for 0
        raise ValueError("its path is the number of a database, such as /0")
    return url


_Key = Annotated[SecretStr, BeforeValidator(_stripped), AfterValidator(_printable)]
_Url = Annotated[AnyHttpUrl, AfterValidator(_base_url)]
_Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_trusted_network)]


class Settings(BaseSettings):
    """What the service can be told: one attribute a variable, `GEOIP_` and its name in capitals, but for `PORT`."""

    model_config = SettingsConfigDict(
        env_prefix="GEOIP_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    bind: IPv4Address | IPv6Address = IPv4Address("0.0.0.0")  # noqa: S104 (a container is reached from outside)
    # Not GEOIP_PORT: beside a Service named geoip, Kubernetes sets that to tcp://…
    port: Annotated[int, Field(ge=1, le=65535, validation_alias="PORT")] = 8080

    sources: Annotated[
        tuple[Annotated[SourceName, BeforeValidator(_source_name)], ...],
        NoDecode,
        BeforeValidator(_comma_separated),
        Field(min_length=1),
    ] = ("ipwhois", "mmdb")
    ipwhois_url: _Url = AnyHttpUrl("https://ipwho.is")
    ipify_url: _Url = AnyHttpUrl("https://geo.ipify.org")
    ipify_key: _Key | None = None
    ipify_key_file: Path | None = None
    ipapi_url: _Url = AnyHttpUrl("http://ip-api.com")
    ipinfo_url: _Url = AnyHttpUrl("https://ipinfo.io")
    ipinfo_key: _Key | None = None
    ipinfo_key_file: Path | None = None
    mmdb_city: Path | None = None
    """MaxMind DB file with places."""
    mmdb_asn: Path | None = None
    """MaxMind DB file with providers."""

    timeout: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 3
    """Seconds for one lookup: all sources and retries together."""
    cache_ttl: Annotated[int, Field(ge=0, le=31_536_000)] = 3600
    """Seconds that an answer is kept; 0 turns the cache off."""
    cache_size: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    """Addresses that are kept; 0 turns the cache off."""

    cache_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    """Valkey or Redis: a second cache, shared by all replicas."""

    trusted_proxies: Annotated[tuple[_Network, ...], NoDecode, BeforeValidator(_comma_separated)] = ()
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(_lower_case)] = (
        "info"
    )
    log_format: Literal["text", "json"] = "text"
    log_addresses: bool = False
    """Whether a JSON line says whose request it was, and about which address."""

    @model_validator(mode="before")
    @classmethod
    def _keys_from_files(cls, values: dict[str, object]) -> dict[str, object]:
        """Secrets are mounted as files: every `…_KEY` can be the `…_KEY_FILE` that holds it."""
        for name in ("ipify_key", "ipinfo_key"):
            path = values.get(f"{name}_file")
            if not path:
                continue
            if values.get(name):
                raise ValueError(f"GEOIP_{name.upper()} and GEOIP_{name.upper()}_FILE are both set")
            try:
                key = Path(str(path)).read_text().strip()
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "no text"
                raise ValueError(f"GEOIP_{name.upper()}_FILE: {path} cannot be read: {reason}") from None
            if not key:
                raise ValueError(f"GEOIP_{name.upper()}_FILE: {path} is empty")
            values[name] = key
        return values

    @model_validator(mode="after")
    def _sources_can_be_asked(self) -> Self:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("GEOIP_SOURCES: a source is named twice")
        if "ipify" in self.sources and self.ipify_key is None:
            raise ValueError("GEOIP_IPIFY_KEY: the source ipify needs an API key")
        return self


def load_settings() -> Settings:
    """Read the settings; ValueError, of one line, names every wrong variable and what is wrong with it."""
    try:
        return Settings()
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(e["loc"], e["msg"]) for e in error.errors())) from None
    except (OSError, UnicodeError) as error:
        raise ValueError(f".env cannot be read: {error}") from None


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    name = str(location[0]).upper()
    return f"{name if name == 'PORT' else f'GEOIP_{name}'}: {message}"
