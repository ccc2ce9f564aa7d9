"""Addresses of other machines: taken apart rightly, and nothing gets through that ssh could read as an option."""

from __future__ import annotations

import pytest

from mobilekit.device.ssh_address import SshAddress
from mobilekit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("ssh://jetson", ["--", "jetson"]),
        ("ssh://ada@jetson.local", ["-l", "ada", "--", "jetson.local"]),
        ("ssh://ada@10.0.0.7:2222/", ["-p", "2222", "-l", "ada", "--", "10.0.0.7"]),
        ("SSH://my_box-2", ["--", "my_box-2"]),
        ("ssh://[::1]:22", ["-p", "22", "--", "::1"]),
        ("ssh://ada@[fe80::1%eth0]", ["-l", "ada", "--", "fe80::1%eth0"]),
    ],
)
def test_an_address_becomes_arguments(text: str, arguments: list[str]) -> None:
    address = SshAddress.parse(text)
    assert address.arguments == arguments
    assert SshAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "ssh://-oProxyCommand=touch x",
        "ssh://-oProxyCommand=x@host",
        "ssh://ada@-oProxyCommand=x",
        "ssh://[-oProxyCommand=x]",
        "ssh://host;id",
        "ssh://host name",
        "ssh://$(id)",
        "ssh://host\n-p1",
        "ssh://host\0",
        "ssh://hôte",
        "ssh://",
        "ssh:///",
        "ssh://@host",
        "ssh://a b@host",
        "ssh://host/path",
        "ssh://host?x",
        "ssh://host:",
        "ssh://host:0",
        "ssh://host:65536",
        "ssh://host:²",
        "ssh://host:-1",
        "ssh://host:22:22",
        "ssh://[::1",
        "ssh://[::1]22",
        "ssh://[::1%]",
        "ssh://[host]",
        "host",
        "http://host",
        "ssh:host",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        SshAddress.parse(text)
    assert "ssh://[user@]host" in caught.value.hint


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="a password has no place") as caught:
        SshAddress.parse("ssh://ada:swordfish@jetson")
    assert "swordfish" not in str(caught.value)
