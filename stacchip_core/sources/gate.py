"""Which hosts may be asked for bytes, decided before a packet is sent; and the names of all rules of the gate."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from stacchip_core.errors import HrefRefusedError, TransientReadError

# Every refusal ends in "(rule: <name>)"; docs/access.md says what each is for.
RULES = {
    "characters": "control characters, outer spaces, nothing at all",
    "scheme": "something else than https, http, s3, gs, az, or a file below a local root",
    "gdal-handler": "/vsi... and XML, which GDAL takes for instructions",
    "driver-prefix": "GTIFF_DIR:, NETCDF: and the like, which GDAL takes for instructions",
    "local-root": "a local file outside the folders that may be read",
    "remote-names-local": "an item of a network that names a local file",
    "userinfo": "a user name or password in a URL",
    "host-spelling": "a host that no two programs read alike: numbers, escapes, backslashes, odd characters",
    "host-not-named": "a host that is not among the hosts named",
    "private-address": "a host on a private or loopback address that was not named",
    "special-address": "a link-local, multicast, unspecified or reserved address",
    "redirect": "a redirect to a host that was not named, or away from https",
    "bucket-name": "a bucket with characters that no bucket has, or a key with '..' in it",
    "file-format": "bytes that don't begin as a GeoTIFF (or JPEG 2000) does, whatever the file is called",
    "raster-size": "more pixels or layers than any scene has",
    "block-bytes": "one block of pixels that is too large to decode",
    "item-id": "an id that is no text of 1 to 512 bytes without control characters",
    "item-size": "an item of more than 4 MiB, or 1000 assets",
    "item-nesting": "JSON nested more than 64 levels deep",
    "geometry-size": "a geometry of more than 100 000 positions",
    "grid-fields": "a projection field that describes no grid on the Earth",
}

_PORTS = {"http": 80, "https": 443}
# Letters, digits, hyphens, and the underscore that some buckets carry. Source: RFC 1123, 2.1.
_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# What inet_aton takes for a number: "2130706433", "0x7f.1", "0177.0.0.1". Source: WHATWG URL, "ends in a number".
_NUMBER_LIKE = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
# An IPv4 address inside an IPv6 one. Source: RFC 6052 (NAT64).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL, in one spelling: lower case, no dot at the end, IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """The URL without a path."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """`host:port`, as it may be named."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Gate:
    """The hosts that may be read.

    Attributes:
        hosts: named by the user, `data.example.org`, `*.example.org` or `10.0.0.5:8080`: whatever their address. Where
            there are any, hosts that are not named are refused; where there are none, every public address is open.
        own: `host:port` of the source and of the storage endpoint; read beside `hosts`, whatever their address.
    """

    hosts: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def check(self, href: str) -> Origin:
        """Origin of an http(s) URL that may be asked, as far as its spelling tells.

        Raises:
            HrefRefusedError: with its rule.
        """
        origin = origin_of(href)
        if self.hosts and not self.is_named(origin):
            raise HrefRefusedError(
                f"host {origin.netloc} is not among the hosts named: {self._named}", rule="host-not-named"
            )
        if (address := _address(origin.host)) is not None:
            self._check_address(origin, address)
        return origin

    def check_redirect(self, origin: Origin, href: str) -> Origin:
        """Origin of where a server redirects to: its own host again, or a named one, and never away from https.

        Raises:
            HrefRefusedError: with its rule.
        """
        target = self.check(href)
        if origin.scheme == "https" and target.scheme != "https":
            raise HrefRefusedError(f"host {origin.host} redirects from https to {target.scheme}", rule="redirect")
        if target.host != origin.host and not self.is_named(target):
            raise HrefRefusedError(
                f"host {origin.host} redirects to {target.host}, which is not among the hosts named: {self._named}; "
                "name both with Storage(hosts=[...]) to follow",
                rule="redirect",
            )
        return target

    def addresses(self, origin: Origin) -> tuple[str, ...]:
        """Addresses to connect to, asked of the resolver; one that may not be read refuses the host.

        Raises:
            HrefRefusedError: with its rule.
            TransientReadError: the name does not resolve.
        """
        try:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as err:
            raise TransientReadError(f"host {origin.host} could not be resolved") from err
        texts = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        for text in texts:
            self.check_peer(origin, text)
        return texts

    def check_peer(self, origin: Origin, address: str) -> None:
        """Raise unless a host may be read at an address.

        Raises:
            HrefRefusedError: with its rule.
        """
        self._check_address(origin, ipaddress.ip_address(address.partition("%")[0]))

    def is_named(self, origin: Origin) -> bool:
        """Whether a host is one of the user's, the source's, or the storage endpoint's."""
        return origin.netloc in self.own or any(_names(host, origin) for host in self.hosts)

    def _check_address(self, origin: Origin, address: Address) -> None:
        shown = origin.host if origin.host == str(address) else f"{origin.host} ({address})"
        if _is_special(address):
            if not any(_names(host, origin) and _address(origin.host) == address for host in self.hosts):
                raise HrefRefusedError(
                    f"host {shown} is a link-local, multicast or reserved address", rule="special-address"
                )
        elif not _is_public(address) and not self.is_named(origin):
            raise HrefRefusedError(
                f"host {shown} is on a private network or this machine; Storage(hosts=[{origin.host!r}]) allows it",
                rule="private-address",
            )

    @property
    def _named(self) -> str:
        return ", ".join((*self.hosts, *self.own)) or "none"


OPEN = Gate()


def origin_of(href: str, *, may_have_user: bool = False) -> Origin:
    """Origin of an http(s) URL in its one spelling.

    Args:
        href: the URL.
        may_have_user: let user info pass, which a catalog that a user names may carry, and an item may not.

    Raises:
        HrefRefusedError: with its rule: no http(s) URL, user info, or a host in a spelling that programs read apart.
    """
    if "\\" in href.partition("?")[0] or any(ord(c) < 32 or ord(c) == 127 for c in href):
        raise HrefRefusedError("the URL holds a backslash or a control character", rule="host-spelling")
    try:
        parts = urlsplit(href)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise HrefRefusedError("the URL's host or port can't be read", rule="host-spelling") from err
    if parts.scheme not in _PORTS:
        raise HrefRefusedError(f"scheme {parts.scheme!r} is neither https nor http", rule="scheme")
    if "@" in parts.netloc and not may_have_user:
        raise HrefRefusedError(f"the URL of host {host[:80]!r} carries a user name or password", rule="userinfo")
    return Origin(parts.scheme, _canonical(host), _PORTS[parts.scheme] if port is None else port)


def host_of(href: str) -> str:
    """`host:port` of an http(s) URL; empty for anything else."""
    try:
        return origin_of(href).netloc
    except HrefRefusedError:
        return ""


def _canonical(host: str) -> str:
    """One spelling of a host; names beyond ASCII have to be given in their encoded form (xn--...)."""
    address = _address(host)
    if address is not None:
        return str(address)
    name = host.lower().removesuffix(".")
    if not _HOST_NAME.fullmatch(name) or _NUMBER_LIKE.fullmatch(name):
        raise HrefRefusedError(
            f"host {host[:80]!r} is neither a name nor an address in its usual spelling", rule="host-spelling"
        )
    return name


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host) if "%" not in host else None
    except ValueError:
        return None


def _names(text: str, origin: Origin) -> bool:
    """Whether an entry of `hosts` names an origin."""
    name = text.strip().lower()
    if name.startswith("*."):
        return origin.host.endswith(name[1:].removesuffix("."))
    if name in (origin.netloc, origin.host, f"[{origin.host}]"):
        return True
    address, own = _address(name.strip("[]")), _address(origin.host)
    return address is not None and address == own


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, if so."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def _is_special(address: Address) -> bool:
    real = _inner(address)
    return real.is_link_local or real.is_multicast or real.is_unspecified or (real.is_reserved and not real.is_loopback)


def _is_public(address: Address) -> bool:
    real = _inner(address)
    return real.is_global and not real.is_multicast
