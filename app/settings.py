"""Settings, from environment variables or a .env file. A wrong one is a ValueError of one line that shows no secret."""

import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyAddress,
    RedisDsn,
    SecretStr,
    ValidationError,
    create_model,
)

from app.address import IPNetwork, parse_network
from app.sources import SOURCES
from app.sources.source import Source, comma_separated


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a source is named twice: name each once")
    return names


def _trusted_network(text: str) -> IPNetwork:
    try:
        network = parse_network(text)
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} is not an address or a network ({error})") from None
    if network.prefixlen == 0:
        raise ValueError(f"{text} would trust every client: name your proxies")
    return network


def _redis_url(url: SecretStr) -> SecretStr:
    try:
        parsed = RedisDsn(url.get_secret_value())
    except ValidationError:  # its message would show the password
        raise ValueError("not a URL such as redis://HOST:6379/0 or rediss://USER:PASSWORD@HOST:6379/0") from None
    if not re.fullmatch("(/[0-9]*)?", parsed.path or ""):  # redis takes any other path for 0
        raise ValueError("its path is the number of a database, such as /0")
    return url


_Network = Annotated[IPNetwork, BeforeValidator(_trusted_network)]


class Settings(BaseModel):
    """All settings but those of the sources. A field `name` is the variable `GEOIP_NAME` if it has no alias."""

    model_config = ConfigDict(
        alias_generator=lambda name: f"GEOIP_{name.upper()}", frozen=True, hide_input_in_errors=True
    )

    bind: IPvAnyAddress = IPv4Address("0.0.0.0")  # noqa: S104 (a container is reached from outside)
    # Not GEOIP_PORT: Kubernetes sets that to tcp://… beside a Service named geoip.
    port: Annotated[int, Field(ge=1, le=65535, validation_alias="PORT")] = 8080
    sources: Annotated[
        tuple[str, ...], BeforeValidator(comma_separated), AfterValidator(_distinct), Field(min_length=1)
    ] = ("ipwhois", "mmdb")
    timeout: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 3
    """Seconds for one lookup: all sources and retries together."""
    cache_ttl: Annotated[int, Field(ge=0, le=31_536_000)] = 3600
    """Seconds that an answer is kept; 0 turns the cache off."""
    cache_size: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    """Addresses that are kept; 0 turns the cache off."""
    cache_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    """Valkey or Redis: a second cache, shared by all replicas."""
    trusted_proxies: Annotated[tuple[_Network, ...], BeforeValidator(comma_separated)] = ()
    certificates: Annotated[str | None, Field(validation_alias="SSL_CERT_FILE")] = None
    """CA bundle, in PEM format, that TLS is verified against."""
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(str.lower)] = "info"
    log_format: Literal["text", "json"] = "text"
    log_addresses: bool = False
    """Whether a JSON line says whose request it was, and about which address."""

    def of_source(self, name: str) -> Any:  # noqa: ANN401 (an instance of the source's settings_model)
        """Return the settings that a source declares."""
        return getattr(self, name)


def load_settings(sources: Sequence[type[Source]] = SOURCES, variables: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `variables`, or else from the environment and .env.

    ValueError, of one line, names every variable that is wrong, and says why.
    """
    if variables is None:
        variables = _read_variables()
    values: dict[str, object] = dict(variables)
    for source in sources:
        prefix = f"GEOIP_{source.name.upper()}"
        names = {field: f"{prefix}_{field.upper()}" for field in source.settings_model.model_fields}
        values[prefix] = {field: variables[name] for field, name in names.items() if name in variables}
    declared: dict[str, Any] = {source.name: (source.settings_model, ...) for source in sources}
    try:
        settings = create_model("AllSettings", __base__=Settings, **declared).model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(e["loc"], e["msg"]) for e in error.errors())) from None
    by_name = {source.name: source for source in sources}
    for name in settings.sources:
        if name not in by_name:
            raise ValueError(f"GEOIP_SOURCES: there is no source {name[:40]!r}; there are {', '.join(by_name)}")
        if by_name[name].needs_key and not settings.of_source(name).secret:
            raise ValueError(f"GEOIP_{name.upper()}_KEY: {name} needs an API key: set it, or change GEOIP_SOURCES")
    return settings


def _read_variables() -> dict[str, str]:
    """Return the variables of .env and of the environment, which overrides .env. An empty one counts as unset."""
    try:
        lines = dotenv_values(".env")
    except (OSError, UnicodeError) as error:
        raise ValueError(f".env cannot be read: {error}") from None
    return {name.upper(): value for name, value in (*lines.items(), *os.environ.items()) if value}


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    name = "_".join(part for part in location if isinstance(part, str)).upper()
    return f"{name}: {message.removeprefix('Value error, ')}"
