"""Addresses of hosts: which are public, and lists of them in settings.

An address passes only if it is one of the public internet by IANA's registries of special-purpose addresses
(https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry). They are spelled
out here because the standard library's tables differ between patch releases of one Python version.
"""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches this very machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' own (CGNAT), and a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's metadata and agents, at an address that looks public
        "169.254.0.0/16",  # link-local, and most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments, and a cloud's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]

_GLOBAL_V6 = IPv6Network("2000::/3")
"""The only part of IPv6 that was given out as public; loopback, ULA, link-local, … are outside of it."""

_REFUSED_V6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo (which carries an IPv4 address), ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries an IPv4 address
        "3fff::/20",  # documentation
    )
]

_NAT64 = IPv6Network("64:ff9b::/96")
"""How an IPv6-only network reaches IPv4; the last 32 bits are the address that is meant (RFC 6052)."""

_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""Upper half of an interface identifier whose lower half is an IPv4 address (RFC 5214)."""


def is_public(address: Address) -> bool:
    """Whether ``address`` is on the public internet, whatever form it is written in."""
    address = plain(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4) and address.is_global
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return False
    return not any(address in network for network in _REFUSED_V6) and address.is_global


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does: mapped (``::ffff:a.b.c.d``), or NAT64's."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else address


class HostList:
    """Hosts as a setting lists them: ``10.1.2.0/24, 192.168.1.5, fd00::/8, minio.internal``; ``*`` is all."""

    def __init__(self, listed: str | None) -> None:
        """Raises ``ValueError`` with a sentence if an entry is no name, address or network."""
        self._all = False
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in filter(None, (entry.strip() for entry in (listed or "").split(","))):
            self._add(entry)

    def _add(self, entry: str) -> None:
        if entry == "*":
            self._all = True
            return
        try:
            self._networks.append(ip_network(entry.strip("[]")))
        except ValueError as error:
            # A name's last label begins with a letter; what does not is a mistyped address.
            label = entry.rstrip(".").rpartition(".")[2]
            if "/" in entry or ":" in entry or not label[:1].isalpha():
                raise ValueError(
                    f"{entry!r} is not a host name, an address or a network such as 10.1.2.0/24"
                ) from error
            self._names.add(_normal(entry))

    def has_name(self, host: str) -> bool:
        """Whether it lists the very name ``host``; a name does not stand for those below it."""
        return self._all or _normal(host) in self._names

    def has_address(self, address: str) -> bool:
        """Whether it lists ``address``, in whatever form; what is no address is not listed."""
        try:
            parsed = plain(ip_address(address))
        except ValueError:
            return self._all
        return self._all or any(parsed in network for network in self._networks)


def _normal(host: str) -> str:
    return host.rstrip(".").lower()


def may_connect(host: str, addresses: Iterable[str], private: HostList) -> bool:
    """Whether **all** ``addresses`` of ``host`` are public, or listed as ``private`` ones to be allowed.

    A name with one public and one private address is refused as a whole: which of them is connected to
    would be the choice of whoever owns the name.
    """
    return private.has_name(host) or all(
        private.has_address(address) or _is_public(address) for address in addresses
    )


def _is_public(address: str) -> bool:
    try:
        return is_public(ip_address(address))
    except ValueError:
        return False
