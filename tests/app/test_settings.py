"""Settings: their defaults, the places that they are read from, and the message about a wrong one."""

from pathlib import Path

import pytest

from app.settings import Settings, load_settings
from app.sources import SOURCES
from app.sources.source import HttpSettings, HttpSource, Source
from tests.app.scripted import Scripted
from tests.conftest import ROOT

WEB = [source.name for source in SOURCES if issubclass(source, HttpSource)]


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})


def test_the_defaults_serve_everybody_on_port_8080() -> None:
    settings = load_settings()
    assert (str(settings.bind), settings.port) == ("0.0.0.0", 8080)
    assert (settings.timeout, settings.cache_ttl, settings.cache_size) == (3, 3600, 10_000)
    assert settings.trusted_proxies == ()
    assert settings.log_level == "info"


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PORT", "abc", "PORT: Input should be a valid integer"),
        ("PORT", "0", "PORT: Input should be greater than or equal to 1"),
        ("PORT", "65536", "PORT: Input should be less than or equal to 65535"),
        ("GEOIP_BIND", "everywhere", "GEOIP_BIND: value is not a valid IPv4 or IPv6 address"),
        ("GEOIP_SOURCES", "ipwhois,nobody", "GEOIP_SOURCES: there is no source 'nobody'; there are ipwhois, "),
        ("GEOIP_BIND", "10.0.0.0/8", "GEOIP_BIND: "),
        ("GEOIP_SOURCES", ",", "GEOIP_SOURCES: "),
        ("GEOIP_SOURCES", "ipapi,ipapi", "GEOIP_SOURCES: a source is named twice: name each once"),
        (
            "GEOIP_SOURCES",
            "ipify",
            "GEOIP_IPIFY_KEY: ipify needs an API key: set it, or change GEOIP_SOURCES",
        ),
        ("GEOIP_IPWHOIS_URL", "ftp://ipwho.is", "GEOIP_IPWHOIS_URL: "),
        ("GEOIP_IPIFY_KEY", "se cret", "GEOIP_IPIFY_KEY: a key has no spaces"),
        ("GEOIP_TIMEOUT", "0", "GEOIP_TIMEOUT: "),
        ("GEOIP_TIMEOUT", "nan", "GEOIP_TIMEOUT: "),
        ("GEOIP_TIMEOUT", "inf", "GEOIP_TIMEOUT: "),
        ("GEOIP_CACHE_TTL", "-1", "GEOIP_CACHE_TTL: "),
        ("GEOIP_CACHE_SIZE", "many", "GEOIP_CACHE_SIZE: "),
        ("GEOIP_IPIFY_URL", "https://u:se%20cret@host/", "GEOIP_IPIFY_URL: a base URL has no user"),
        ("GEOIP_IPIFY_URL", "https://host/?token=se%20cret", "GEOIP_IPIFY_URL: a base URL has no user"),
        ("GEOIP_IPIFY_URL", "https://host/#se%20cret", "GEOIP_IPIFY_URL: a base URL has no user"),
        ("GEOIP_TRUSTED_PROXIES", "*", "GEOIP_TRUSTED_PROXIES: '*' is not an address or a network"),
        ("GEOIP_TRUSTED_PROXIES", "10.0.0.1/8", "GEOIP_TRUSTED_PROXIES: '10.0.0.1/8' is not an address or a network"),
        (
            "GEOIP_TRUSTED_PROXIES",
            "::ffff:0.0.0.0/96",
            "GEOIP_TRUSTED_PROXIES: ::ffff:0.0.0.0/96 would trust every client: name your proxies",
        ),
        ("GEOIP_TRUSTED_PROXIES", "::/0", "GEOIP_TRUSTED_PROXIES: ::/0 would trust every client: name your proxies"),
        ("GEOIP_LOG_LEVEL", "loud", "GEOIP_LOG_LEVEL: "),
    ],
)
def test_a_wrong_setting_is_named_in_one_line_that_shows_no_secret(
    variable: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=r".") as caught:
        load_settings()
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "abc")
    monkeypatch.setenv("GEOIP_TIMEOUT", "soon")
    with pytest.raises(ValueError, match=r"PORT: .*; GEOIP_TIMEOUT: "):
        load_settings()


def test_lists_are_separated_by_commas_and_may_have_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_SOURCES", "ipapi, ipwhois")
    monkeypatch.setenv("GEOIP_TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::1 ,")
    settings = load_settings()
    assert settings.sources == ("ipapi", "ipwhois")
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "2001:db8::1/128"]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_IPINFO_KEY", "")
    monkeypatch.setenv("PORT", "")
    settings = load_settings()
    assert settings.of_source("ipinfo").secret == ""
    assert settings.port == 8080


def test_what_kubernetes_sets_beside_a_service_named_geoip_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("GEOIP_SERVICE_HOST", "10.0.0.1")
    assert load_settings().port == 8080


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=9000\nGEOIP_LOG_LEVEL=DEBUG\n")
    monkeypatch.setenv("PORT", "9001")
    settings = load_settings()
    assert (settings.port, settings.log_level) == (9001, "debug")


def test_an_empty_variable_leaves_the_one_of_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("port=9000\n")
    monkeypatch.setenv("PORT", "")
    assert load_settings().port == 9000


def test_an_env_file_that_is_not_text_is_named() -> None:
    Path(".env").write_bytes(b"\xff\xfe=1")
    with pytest.raises(ValueError, match=r"^\.env cannot be read: "):
        load_settings()


def test_no_key_shows_in_the_settings_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_IPIFY_KEY", "sesame")
    assert "sesame" not in repr(load_settings())


def example_lines() -> dict[str, str]:
    lines = [line.removeprefix("#") for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line]
    return dict(line.split("=", 1) for line in lines)


def variables(source: type[Source]) -> set[str]:
    return {f"GEOIP_{source.name}_{field}".upper() for field in source.settings_model.model_fields}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_example_file_has_the_settings_of_each_source(source: type[Source]) -> None:
    missing = variables(source) - example_lines().keys()
    assert not missing, f".env.example has no line for {sorted(missing)}"


def test_the_example_file_lists_every_other_setting_and_no_more() -> None:
    own = {field.validation_alias or f"GEOIP_{name.upper()}" for name, field in Settings.model_fields.items()}
    assert example_lines().keys() == own.union(*map(variables, SOURCES))


def test_the_example_file_has_the_defaults() -> None:
    lines = example_lines()
    Path(".env").write_text("\n".join(f"{name}={value}" for name, value in lines.items() if not name.endswith("_URL")))
    assert load_settings().model_dump() == load_settings(variables={}).model_dump()
    urls = {name: value for name, value in lines.items() if name.endswith("_URL") and name != "GEOIP_CACHE_URL"}
    assert urls == {
        f"GEOIP_{source.name.upper()}_URL": source.url for source in SOURCES if issubclass(source, HttpSource)
    }


def test_a_key_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text("sesame\n")
    monkeypatch.setenv("GEOIP_IPIFY_KEY_FILE", "key")
    monkeypatch.setenv("GEOIP_SOURCES", "ipify")
    assert load_settings().of_source("ipify").secret == "sesame"


def test_a_key_that_was_filled_from_a_file_has_its_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_IPINFO_KEY", "sesame\n")
    assert load_settings().of_source("ipinfo").secret == "sesame"


def test_a_key_that_is_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text("sesame")
    monkeypatch.setenv("GEOIP_IPINFO_KEY_FILE", "key")
    monkeypatch.setenv("GEOIP_IPINFO_KEY", "other")
    with pytest.raises(
        ValueError, match=r"^GEOIP_IPINFO: the key and the file of the key are both set: keep one of them$"
    ):
        load_settings()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"\xff", "not a text"),
        (b"\n", "is empty"),
        (b"se same", "a key has no spaces"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named(
    content: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        Path("key").write_bytes(content)
    monkeypatch.setenv("GEOIP_IPINFO_KEY_FILE", "key")
    with pytest.raises(ValueError, match=rf"^GEOIP_IPINFO_KEY.*{reason}") as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert "se same" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *((url, "not a URL such as redis://") for url in ("http://sesame@host", "redis://:sesame@host:port", "sesame")),
        ("redis://:se/same@host:1", "not a URL such as redis://"),
        ("redis://:sesame@host/cache", "its path is the number of a database"),
    ],
)
def test_a_wrong_cache_url_is_refused_without_its_password(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOIP_CACHE_URL", url)
    with pytest.raises(ValueError, match=f"^GEOIP_CACHE_URL: {reason}") as caught:
        load_settings()
    assert "same" not in str(caught.value)


@pytest.mark.parametrize("name", WEB)
@pytest.mark.parametrize(
    "key", ['"sesame"', "'sesame'", '"sesame', 'sesame"', "GEOIP_NAME_KEY=sesame", "KEY=sesame", "ses ame", "sés"]
)
@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_key_with_its_quotes_or_its_name_stops_the_start(
    name: str, key: str, in_a_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"GEOIP_{name.upper()}_KEY"
    Path("key").write_text(key, "utf-8")
    monkeypatch.setenv(*((f"{variable}_FILE", "key") if in_a_file else (variable, key)))
    with pytest.raises(
        ValueError, match=rf"^{variable}(_FILE)?: a key (has no spaces|is written without quotes)"
    ) as caught:
        load_settings()
    assert key not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [b"\xef\xbb\xbfsesame", b"\xef\xbb\xbfsesame\r\n", b" sesame\n\n", b"sesame=="])
def test_a_key_file_may_have_what_editors_add(contents: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_bytes(contents)
    monkeypatch.setenv("GEOIP_IPAPI_KEY_FILE", "key")
    assert load_settings().of_source("ipapi").secret in {"sesame", "sesame=="}


def test_the_settings_of_a_source_from_outside_are_read_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Outside(Scripted):
        name = "example"
        settings_model = HttpSettings

    monkeypatch.setenv("GEOIP_EXAMPLE_URL", "http://127.0.0.1:1/there")
    monkeypatch.setenv("GEOIP_EXAMPLE_KEY", "sesame")
    settings = load_settings((*SOURCES, Outside))
    assert (str(settings.of_source("example").url), settings.of_source("example").secret) == (
        "http://127.0.0.1:1/there",
        "sesame",
    )
    assert "sesame" not in repr(settings)
    monkeypatch.setenv("GEOIP_EXAMPLE_URL", "nowhere")
    with pytest.raises(ValueError, match=r"^GEOIP_EXAMPLE_URL: "):
        load_settings((*SOURCES, Outside))
    load_settings()  # without that source, its variables are ignored


def test_files_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_MMDB_CITY", "/a b/four.mmdb, six.mmdb,")
    assert load_settings().of_source("mmdb").city == (Path("/a b/four.mmdb"), Path("six.mmdb"))


def test_an_empty_ca_bundle_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    assert load_settings().certificates is None


def test_the_number_of_a_database_may_stand_in_the_cache_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_CACHE_URL", "rediss://user:sesame@host:6379/0?ssl_check_hostname=0")
    assert "sesame" not in repr(load_settings())
