"""Where another machine is: ``ssh://[user@]host[:port]``, taken apart and distrusted before ssh sees any of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from mobilekit.errors import UsageError

__all__ = ["SshAddress"]

_FORM = "ssh://[user@]host[:port]; an alias of ~/.ssh/config may stand for the host"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}")


@dataclass(frozen=True, slots=True)
class SshAddress:
    """``user`` and ``port`` are ``None`` where ssh and its configuration decide. ``host`` has no brackets."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """Raises :class:`UsageError` for what is none, and for names that ssh or a shell could take for more."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() != "ssh":
            raise _refused(text, "it does not begin with ssh://")
        rest = rest.removesuffix("/")
        user, at, place = rest.rpartition("@")
        if ":" in user:
            raise _refused(text, "a password has no place in an address", shown="ssh://user:...@...")
        if at and not _USER.fullmatch(user):
            raise _refused(text, f"{user!r} is no user name")
        host, port = _host_and_port(text, place)
        return cls(host, user or None, port)

    @property
    def arguments(self) -> list[str]:
        """What follows ssh's options on its command line."""
        port = [] if self.port is None else ["-p", str(self.port)]
        user = [] if self.user is None else ["-l", self.user]
        return [*port, *user, "--", self.host]

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port is not None else "")


def _host_and_port(text: str, place: str) -> tuple[str, int | None]:
    if place.startswith("["):
        host, bracket, after = place[1:].partition("]")
        address, percent, zone = host.partition("%")
        try:
            IPv6Address(address)
        except AddressValueError as error:
            raise _refused(text, f"[{host}] is no IPv6 address") from error
        if not bracket or (percent and not _ZONE.fullmatch(zone)) or (after and not after.startswith(":")):
            raise _refused(text, f"{place!r} is no IPv6 address with a port")
        colon, number = after[:1], after[1:]
    else:
        host, colon, number = place.partition(":")
        if not _HOST.fullmatch(host):
            raise _refused(text, f"{host!r} is no host name")
    if not colon:
        return host, None
    if not (number.isascii() and number.isdecimal() and len(number) <= 5 and 0 < int(number) < 65536):
        raise _refused(text, f"{number!r} is no port")
    return host, int(number)


def _refused(text: str, why: str, *, shown: str = "") -> UsageError:
    return UsageError(f"{shown or repr(text)} is not the address of a machine: {why}", hint=_FORM)
