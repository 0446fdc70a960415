"""Addresses: how they are read, which one is the caller's, and which are global."""

from ipaddress import ip_address

import pytest

from app.address import caller_address, is_global, is_in, parse_address, parse_network


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


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:a00:0/120", "10.0.0.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/95", "::/95"),
        ("::/96", "::/96"),
    ],
)
def test_a_network_is_read_as_addresses_are(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize("text", ["", "*", "10.0.0.1/8", "::ffff:10.0.0.1/104", "10.0.0.0/33", "proxy.example"])
def test_what_is_not_a_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_network(text)


TRUSTED = [parse_network(text) for text in ("::ffff:10.0.0.0/104", "2001:db8::/32")]


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["8.8.8.8"], "8.8.8.8"),
        (["8.8.8.8,"], "8.8.8.8"),
        (["8.8.8.8, ,, "], "8.8.8.8"),
        ([", 8.8.8.8", ""], "8.8.8.8"),
        (["8.8.8.8", "1.1.1.1"], "1.1.1.1"),
        (["8.8.8.8, 10.9.9.9, [2001:db8::5]:443"], "8.8.8.8"),
        (["8.8.8.8:1234"], "8.8.8.8"),
        (["[2a00::1]"], "2a00::1"),
        (["[2a00::1]:80"], "2a00::1"),
        (["::ffff:8.8.8.8"], "8.8.8.8"),
        (["8.8.8.8, unknown"], "10.0.0.1"),
        (["8.8.8.8, unknown, 10.0.0.7"], "10.0.0.7"),
        (["10.0.0.5, 10.0.0.6"], "10.0.0.5"),
    ],
)
def test_the_caller_is_the_last_hop_that_is_not_a_trusted_proxy(forwarded: list[str], caller: str) -> None:
    assert caller_address(ip_address("10.0.0.1"), forwarded, TRUSTED) == ip_address(caller)


def test_a_peer_that_is_not_trusted_is_the_caller_whatever_it_says() -> None:
    assert caller_address(ip_address("9.9.9.9"), ["8.8.8.8"], TRUSTED) == ip_address("9.9.9.9")


def test_an_address_is_in_a_network_of_its_own_version() -> None:
    assert is_in(ip_address("10.1.1.1"), TRUSTED)
    assert not is_in(ip_address("::a00:1"), TRUSTED)


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
def test_an_address_that_is_global(text: str) -> None:
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
def test_an_address_that_is_not_global(text: str) -> None:
    assert not is_global(parse_address(text))
