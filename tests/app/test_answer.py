"""The answer: how the fields of a source are read, and which of them are not an answer."""

import string
from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.answer import MAX_TEXT, Answer, Found, read_answer
from app.problems import Problem
from app.registries import COUNTRY_CODES

EIGHT = ip_address("8.8.8.8")
PLACE: dict[str, object] = {"isp": "Example Net", "latitude": 1.5, "longitude": -2.5}


def problem(fields: dict[str, object], address: str | None = "8.8.8.8") -> Problem:
    with pytest.raises(Problem) as caught:
        read_answer("test", ip_address(address) if address else None, fields)
    return caught.value


def test_an_answer_cannot_be_changed() -> None:
    answer = read_answer("test", EIGHT, PLACE)
    with pytest.raises(ValidationError):
        answer.isp = "Other"


# The ISP and the coordinates


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("isp", 5),
        ("isp", True),
        ("latitude", 90.1),
        ("latitude", -91),
        ("latitude", "north"),
        ("latitude", True),
        ("latitude", float("inf")),
        ("longitude", 182.5),
        ("longitude", "nan"),
        ("longitude", [1]),
    ],
)
def test_an_isp_or_coordinates_that_are_not_valid_are_not_an_answer(field: str, value: object) -> None:
    failed = problem(PLACE | {field: value})
    assert (failed.code, failed.fault) == ("upstream-failed", "answer")
    assert failed.detail == "test sent an answer that is not valid"
    assert failed.reason.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (0, 0, (0.0, 0.0)),
        (-0.0, 9.12345678, (0.0, 9.123457)),
        ("37.4", "-122.1", (37.4, -122.1)),
        (90, -180, (90.0, -180.0)),
        (None, 5, (None, None)),
        (5, "", (None, None)),
        (5, " ", (None, None)),
    ],
)
def test_coordinates_come_in_pairs_with_six_decimals(
    latitude: object, longitude: object, expected: tuple[float | None, float | None]
) -> None:
    answer = read_answer("test", EIGHT, {"isp": "Example Net", "latitude": latitude, "longitude": longitude})
    assert (answer.latitude, answer.longitude) == expected
    assert str(answer.latitude) != "-0.0"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"isp": "", "latitude": "", "longitude": None},
        {"isp": " ", "latitude": 5},
        {"city": "Berlin", "asn": 5, "longitude": 5.5},
    ],
)
def test_neither_an_isp_nor_coordinates_is_an_unknown_address(fields: dict[str, object]) -> None:
    assert problem(fields).code == "unknown-address"


@pytest.mark.parametrize("ip", ["8.8.4.4", "::ffff:8.8.4.4", "2a00::1"])
def test_an_answer_about_another_address_is_not_an_answer(ip: str) -> None:
    assert problem(PLACE | {"ip": ip}).detail == "test answered about another address"


@pytest.mark.parametrize("ip", ["8.8.8", "localhost", "8.8.8.8/32", {"ip": "8.8.8.8"}, 7.5])
def test_an_answer_whose_address_cannot_be_read_is_not_an_answer(ip: object) -> None:
    failed = problem(PLACE | {"ip": ip})
    assert (failed.detail, failed.reason) == ("test sent an answer that is not valid", "ip")


@pytest.mark.parametrize("ip", [None, "", "10.0.0.1", "::1"])
def test_the_services_own_address_has_to_be_named_and_global(ip: str | None) -> None:
    assert problem(PLACE | {"ip": ip}, None).detail == "test does not say which public address the service has"


@pytest.mark.parametrize("ip", ["8.8.8.8", "::ffff:808:808", None, ""])
def test_an_address_is_written_in_one_way(ip: str | None) -> None:
    assert read_answer("test", EIGHT, PLACE | {"ip": ip}).ip == "8.8.8.8"


# Codes of countries


@pytest.mark.parametrize("code", ["ZZ", "XX", "AP", "EU", "UK", "us", "USA", "", "A1", 5, ["US"], None])
def test_a_code_that_is_not_a_countrys_is_null(code: object) -> None:
    answer = read_answer("test", EIGHT, PLACE | {"country_code": code})
    assert answer.country_code is None
    assert (answer.isp, answer.latitude) == ("Example Net", 1.5)


@pytest.mark.parametrize("code", ["US", "GB", "XK", "AX", "TF"])
def test_the_code_of_a_country_is_passed_on(code: str) -> None:
    assert read_answer("test", EIGHT, PLACE | {"country_code": code}).country_code == code


def test_there_are_249_countries_and_kosovo() -> None:
    assert len(COUNTRY_CODES) == 250
    assert all(len(code) == 2 and set(code) <= set(string.ascii_uppercase) for code in COUNTRY_CODES)


@pytest.mark.parametrize("code", ["ZZ", "XX", "EU", "-"])
@pytest.mark.parametrize("zero", [0, 0.0, "0", -0.0])
def test_null_island_without_a_country_is_not_a_place(code: str, zero: object) -> None:
    nowhere = {"latitude": zero, "longitude": zero, "country_code": code}
    assert problem(nowhere).code == "unknown-address"
    answer = read_answer("test", EIGHT, nowhere | {"isp": "Example Net"})
    assert (answer.isp, answer.latitude, answer.longitude) == ("Example Net", None, None)


@pytest.mark.parametrize("code", ["GH", None, ""])
def test_the_coordinates_0_0_are_a_place_unless_the_code_is_not_a_countrys(code: str | None) -> None:
    answer = read_answer("test", EIGHT, {"latitude": 0, "longitude": 0, "country_code": code})
    assert (answer.latitude, answer.longitude) == (0.0, 0.0)


def test_a_place_on_the_equator_or_the_meridian_is_one_whatever_the_code() -> None:
    assert read_answer("test", EIGHT, {"latitude": 0, "longitude": 9.5, "country_code": "ZZ"}).latitude == 0.0


# Extras


@pytest.mark.parametrize(
    ("value", "asn"),
    [
        (15169, 15169),
        (15169.0, 15169),
        ("15169", 15169),
        ("15169.0", 15169),
        ("AS15169", 15169),
        ("as15169 Google LLC", 15169),
        ("AS1.10", 65546),
        ("1.10", 65546),
        ("AS1.0 Example", 65536),
        ("AS65535.65535", 4294967295),
        ("AS0.5", 5),
        ("AS65536.1", None),
        ("AS1.65536", None),
        (4294967295, 4294967295),
        (4294967296, None),
        ("AS4294967296", None),
        (0, None),
        (-5, None),
        (1.5, None),
        (float("inf"), None),
        (True, None),
        ("ASUS", None),
        ("AS15169x", None),
        ("\u0665", None),  # the Arabic digit five
        ([15169], None),
        ({"asn": 15169}, None),
    ],
)
def test_the_number_of_an_autonomous_system(value: object, asn: int | None) -> None:
    assert read_answer("test", EIGHT, PLACE | {"asn": value}).asn == asn


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**32 - 1))
@example(65546)
def test_every_way_to_write_an_as_number_is_read(number: int) -> None:
    ways = [number, float(number), str(number), f"AS{number}", f"AS{number} Name", f"AS{number >> 16}.{number & 65535}"]
    assert {read_answer("test", EIGHT, PLACE | {"asn": way}).asn for way in ways} == {number}


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Kyiv", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "America/Port-au-Prince"]
)
def test_a_time_zone_is_an_iana_name(name: str) -> None:
    assert read_answer("test", EIGHT, PLACE | {"timezone": name}).timezone == name


@pytest.mark.parametrize("name", ["-07:00", "+02", "", "europe/berlin", "Europe/", "/", {"id": "UTC"}, 7])
def test_what_is_not_an_iana_name_is_not_a_time_zone(name: object) -> None:
    assert read_answer("test", EIGHT, PLACE | {"timezone": name}).timezone is None


@pytest.mark.parametrize("field", ["isp", "city", "region", "country", "postal_code"])
@pytest.mark.parametrize("letter", ["x", "ü", "\U0001d535", "界"])
def test_a_long_name_is_cut_at_a_character(field: str, letter: str) -> None:
    for length in (MAX_TEXT, MAX_TEXT + 1, 5000):
        answer = read_answer("test", EIGHT, PLACE | {field: f" {letter * length}"})
        assert getattr(answer, field) == letter * MAX_TEXT
        assert answer.latitude == 1.5


def test_a_cut_name_ends_without_a_space() -> None:
    assert read_answer("test", EIGHT, PLACE | {"isp": "x" * (MAX_TEXT - 1) + " yz"}).isp == "x" * (MAX_TEXT - 1)


EXTRAS = ["city", "region", "country", "country_code", "postal_code", "timezone", "asn"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(EXTRAS), ANYTHING))
def test_extras_of_any_type_never_spoil_an_answer(extras: dict[str, object]) -> None:
    answer = read_answer("test", EIGHT, PLACE | extras)
    assert (answer.isp, answer.latitude, answer.longitude) == ("Example Net", 1.5, -2.5)
    assert Answer.model_validate_json(answer.model_dump_json()) == answer


@settings(max_examples=100, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180))
def test_coordinates_are_kept_to_a_tenth_of_a_metre(latitude: float, longitude: float) -> None:
    answer = read_answer("test", EIGHT, {"isp": "Example Net", "latitude": latitude, "longitude": longitude})
    assert answer.latitude == pytest.approx(latitude, abs=5.1e-7)
    assert answer.longitude == pytest.approx(longitude, abs=5.1e-7)
    assert answer.model_dump_json() == Answer.model_validate_json(answer.model_dump_json()).model_dump_json()


# Found


@pytest.mark.parametrize(
    ("expires", "left", "status"),
    [
        (1100.0, 100, "geoip; hit; ttl=100"),
        (1100.9, 100, "geoip; hit; ttl=100"),
        (999.5, -1, "geoip; hit; ttl=-1"),
    ],
)
def test_what_is_found_says_for_how_long_it_is_kept(expires: float, left: int, status: str) -> None:
    found = Found(b"{}", "test", expires)
    assert found.time_left(1000) == left
    assert found.hit_status(1000) == status
