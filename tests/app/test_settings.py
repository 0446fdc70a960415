"""Settings: their defaults, their sources, and what a wrong one says."""

from pathlib import Path

import pytest

from app.settings import load_settings
from tests.conftest import ROOT


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
        ("GEOIP_BIND", "everywhere", "GEOIP_BIND: "),
        ("GEOIP_SOURCES", "ipwhois,nobody", "GEOIP_SOURCES: there is no source 'nobody'; there are ipwhois, "),
        ("GEOIP_SOURCES", ",", "GEOIP_SOURCES: "),
        ("GEOIP_SOURCES", "ipapi,ipapi", "GEOIP_SOURCES: a source is named twice"),
        ("GEOIP_SOURCES", "ipify", "GEOIP_IPIFY_KEY: the source ipify needs an API key"),
        ("GEOIP_IPWHOIS_URL", "ftp://ipwho.is", "GEOIP_IPWHOIS_URL: "),
        ("GEOIP_IPIFY_KEY", "se cret", "GEOIP_IPIFY_KEY: a key has no spaces"),
        ("GEOIP_TIMEOUT", "0", "GEOIP_TIMEOUT: "),
        ("GEOIP_TIMEOUT", "nan", "GEOIP_TIMEOUT: "),
        ("GEOIP_TIMEOUT", "inf", "GEOIP_TIMEOUT: "),
        ("GEOIP_CACHE_TTL", "-1", "GEOIP_CACHE_TTL: "),
        ("GEOIP_CACHE_SIZE", "many", "GEOIP_CACHE_SIZE: "),
        ("GEOIP_IPIFY_URL", "https://u:se%20cret@host/", "GEOIP_IPIFY_URL: a base URL has neither a user"),
        ("GEOIP_IPIFY_URL", "https://host/?token=se%20cret", "GEOIP_IPIFY_URL: a base URL has neither a user"),
        ("GEOIP_TRUSTED_PROXIES", "*", "GEOIP_TRUSTED_PROXIES: '*' is not an address or a network"),
        ("GEOIP_TRUSTED_PROXIES", "10.0.0.1/8", "GEOIP_TRUSTED_PROXIES: '10.0.0.1/8' is not an address or a network"),
        ("GEOIP_TRUSTED_PROXIES", "::/0", "GEOIP_TRUSTED_PROXIES: ::/0 would trust every client's word about itself"),
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


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_IPINFO_KEY", "")
    monkeypatch.setenv("PORT", "")
    settings = load_settings()
    assert settings.ipinfo_key is None
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


def test_an_env_file_that_is_no_text_is_named() -> None:
    Path(".env").write_bytes(b"\xff\xfe=1")
    with pytest.raises(ValueError, match=r"^\.env cannot be read: "):
        load_settings()


def test_no_key_shows_in_the_settings_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_IPIFY_KEY", "sesame")
    assert "sesame" not in repr(load_settings())


def test_the_example_file_lists_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    defaults = load_settings()
    lines = [line.removeprefix("#") for line in text.splitlines() if "=" in line]
    Path(".env").write_text("\n".join(lines))
    assert load_settings() == defaults
    names = {line.partition("=")[0] for line in lines}
    assert names == {"PORT" if name == "port" else f"GEOIP_{name.upper()}" for name in type(defaults).model_fields}


def test_a_key_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text("sesame\n")
    monkeypatch.setenv("GEOIP_IPIFY_KEY_FILE", "key")
    monkeypatch.setenv("GEOIP_SOURCES", "ipify")
    key = load_settings().ipify_key
    assert key is not None
    assert key.get_secret_value() == "sesame"


def test_a_key_that_was_filled_from_a_file_has_its_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOIP_IPINFO_KEY", "sesame\n")
    key = load_settings().ipinfo_key
    assert key is not None
    assert key.get_secret_value() == "sesame"


def test_a_key_that_is_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text("sesame")
    monkeypatch.setenv("GEOIP_IPINFO_KEY_FILE", "key")
    monkeypatch.setenv("GEOIP_IPINFO_KEY", "other")
    with pytest.raises(ValueError, match=r"^GEOIP_IPINFO_KEY and GEOIP_IPINFO_KEY_FILE are both set$"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"\xff", "no text"),
        (b"\n", "is empty"),
        (b"se same", "a key has no spaces"),
    ],
)
def test_a_key_file_that_is_no_good_is_named(
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
