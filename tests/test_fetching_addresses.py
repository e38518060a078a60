"""Which addresses are public, over all addresses and all ways to write one; and URLs of any kind."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from socket import AF_INET, inet_ntop, inet_pton

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.addresses import HostList, is_public, may_connect
from serve_app.errors import DownloadFailed
from serve_app.fetching import Fetcher, SystemResolver
from serve_app.settings import Settings

NOBODY = HostList(None)
PRIVATE = [
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
private_v4 = st.one_of([st.ip_addresses(v=4, network=str(network)) for network in PRIVATE])


def spellings(address: IPv4Address) -> list[str]:
    """The ways in which ``inet_aton``, and with it most resolvers, reads one address."""
    number, parts = int(address), address.packed
    return [
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(hex(part) for part in parts),
        ".".join(f"0{part:o}" for part in parts),
        f"{parts[0]}.{number & 0xFFFFFF}",
        f"{parts[0]}.{parts[1]}.{number & 0xFFFF}",
        f"[::ffff:{address}]",
        f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[64:ff9b::{address}]",
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
        f"[::{address}]",
    ]


async def resolved(host: str) -> Sequence[str]:
    return await SystemResolver()(host.strip("[]"), 80)


@given(private_v4)
def test_no_spelling_of_a_private_address_is_let_through(address: IPv4Address) -> None:
    async def check() -> None:
        for host in spellings(address):
            assert not may_connect(host, await resolved(host), NOBODY), host

    asyncio.run(check())


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_the_same_in_ipv6(address: IPv4Address) -> None:
    inside = [network for network in PRIVATE if address in network]
    assert not (inside and is_public(address))
    assert is_public(IPv6Address(f"::ffff:{address}")) == is_public(address)
    assert is_public(IPv6Address(f"64:ff9b::{address}")) == is_public(address)


@given(st.ip_addresses(v=6))
@example(IPv6Address("2606:4700:4700::1111"))
def test_only_what_was_given_out_of_ipv6_is_public(address: IPv6Address) -> None:
    if is_public(address) and address.ipv4_mapped is None and address not in ip_network("64:ff9b::/96"):
        assert str(address.exploded)[0] in "23"
        assert not address.is_private


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "192.88.98.1", "100.128.0.1"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(IPv4Address(address))
    assert inet_ntop(AF_INET, inet_pton(AF_INET, address)) == address


@pytest.mark.parametrize("address", ["2606:4700::1", "2a00:1450:4001::1", "2400:3200::1", "::ffff:8.8.8.8"])
def test_public_ipv6_addresses_are_public(address: str) -> None:
    assert is_public(IPv6Address(address))


@given(st.lists(st.ip_addresses(v=4).map(str), min_size=1), private_v4)
def test_one_private_address_among_others_is_enough(others: list[str], private: IPv4Address) -> None:
    assert not may_connect("x.test", [*others, str(private)], NOBODY)


@given(private_v4)
def test_a_listed_network_allows_nothing_beside_itself(address: IPv4Address) -> None:
    listed = HostList("10.1.0.0/16, minio.internal")
    inside = address in IPv4Network("10.1.0.0/16")
    assert may_connect("x.test", [str(address)], listed) == inside
    assert may_connect("MINIO.internal.", [str(address)], listed)
    assert not may_connect("sub.minio.internal", ["127.0.0.1"], listed)


URLS = st.one_of(
    st.text(),
    st.text().map("http://{}".format),
    st.builds("http://{}/{}".format, st.text(), st.text()),
    st.builds("{}://{}".format, st.text(alphabet="htpsf"), st.text(alphabet="a.:@[]0x1%/\\?#_-")),
    st.binary().map(lambda data: "http://" + data.decode("latin-1")),
)


@given(URLS)
@example("http://[v1.x]/")
@example("https://xn--/")
@example("http://a\udc80/")
def test_any_text_for_a_url_gets_a_sentence(url: str) -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    async def check() -> None:
        with pytest.raises(DownloadFailed) as caught:
            async with Fetcher(Settings(), nowhere).fetch(url, param="url"):
                pass
        assert caught.value.message.endswith(".")
        assert "10.0.0.1" not in caught.value.message

    asyncio.run(check())
