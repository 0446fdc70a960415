"""Reading addresses, and which of them are on the internet."""

from ipaddress import ip_address

import pytest

from app.address import is_global, parse_address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " 8.8.8.8",
        "8.8.8",
        "8.8.8.8.8",
        "8.8.8.256",
        "08.8.8.8",
        "0x8.8.8.8",
        "134744072",
        "1.1.1.1/32",
        "example.com",
        "localhost",
        "fe80::1%eth0",
        "2001:4860:4860::8888%1",
        "[::1]",
        "8.8.8.8:80",
        "::ffff:8.8.8.256",
        "٨.٨.٨.٨",
        "8.8.8.8\n",
        "8.8.8.8\0",
        "1" * 10_000,
        ":" * 10_000,
    ],
)
def test_what_is_not_one_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


def test_a_mapped_address_is_the_ipv4_address_that_it_maps() -> None:
    assert parse_address("::ffff:8.8.8.8") == ip_address("8.8.8.8")
    assert parse_address("::ffff:808:808") == ip_address("8.8.8.8")


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.0.9",
        "192.0.0.10",
        "192.31.196.1",
        "192.52.193.1",
        "192.175.48.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2001:4860:4860::8888",
        "2a00::1",
        "2001:1::1",
        "2001:1::3",
        "2001:3::1",
        "2001:4:112::1",
        "2001:20::1",
        "2001:30::1",
        "2001:200::1",
        "2620:4f:8000::1",
        "3ffe::1",
        "64:ff9b::8.8.8.8",
    ],
)
def test_globally_reachable_addresses(text: str) -> None:
    assert is_global(parse_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.8",
        "192.0.0.11",
        "192.0.0.170",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "100:0:0:1::1",
        "1fff::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_addresses_that_nobody_is_found_at(text: str) -> None:
    assert not is_global(parse_address(text))
