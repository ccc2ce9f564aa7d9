"""Who gets in: the holder of the key, and nobody else."""

from __future__ import annotations

import base64
import os
import secrets
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.device.virtual import wire
from mobilekit.device.virtual.auth import TOKEN_SIZE, parse_public_key, peer_user, user_keys, verify
from mobilekit.errors import SetupError
from tests.unit.device.virtual.virtual_host import Host, PrivateKey, Refused, serving


def test_the_right_key_is_accepted(key: PrivateKey) -> None:
    token = secrets.token_bytes(TOKEN_SIZE)
    assert verify(token, key.sign(token), [parse_public_key(key.public_text)])


def test_another_key_is_refused(key: PrivateKey, strangers_key: PrivateKey) -> None:
    token = secrets.token_bytes(TOKEN_SIZE)
    assert not verify(token, strangers_key.sign(token), [parse_public_key(key.public_text)])


def test_one_of_several_keys_is_enough(key: PrivateKey, strangers_key: PrivateKey) -> None:
    token = secrets.token_bytes(TOKEN_SIZE)
    both = [parse_public_key(strangers_key.public_text), parse_public_key(key.public_text)]
    assert verify(token, key.sign(token), both)
    assert not verify(token, key.sign(token), [])


def test_a_signature_of_another_token_is_refused(key: PrivateKey) -> None:
    signature = key.sign(bytes(TOKEN_SIZE))
    assert not verify(b"\1" + bytes(TOKEN_SIZE - 1), signature, [parse_public_key(key.public_text)])


@given(st.binary(max_size=300))
def test_random_bytes_are_no_signature(key: PrivateKey, data: bytes) -> None:
    assert not verify(bytes(TOKEN_SIZE), data, [parse_public_key(key.public_text)])


def test_zero_one_and_the_modulus_are_no_signatures(key: PrivateKey) -> None:
    public = parse_public_key(key.public_text)
    for value in (0, 1, key.modulus - 1, key.modulus):
        assert not verify(bytes(TOKEN_SIZE), value.to_bytes(256, "big"), [public])


@pytest.mark.parametrize(
    "text",
    ["", "   ", "no base64!", base64.b64encode(b"short").decode(), base64.b64encode(bytes(524)).decode()],
)
def test_a_broken_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_public_key(text)


def test_a_connection_with_the_right_key_opens_services(host: Host) -> None:
    stream = host.open("echo:")
    stream.write(b"hello")
    assert stream.read(5) == b"hello"


def test_a_wrong_signature_brings_a_new_token_and_no_service(port: int, strangers_key: PrivateKey) -> None:
    host = Host(port)
    with host.socket:
        token = host.hello()
        host.send(wire.AUTH, wire.AUTH_SIGNATURE, 0, strangers_key.sign(token))
        command, kind, _, other = host.receive()
        assert (command, kind) == (wire.AUTH, wire.AUTH_TOKEN)
        assert other != token
        host.send(wire.AUTH, wire.AUTH_PUBLIC_KEY, 0, strangers_key.public_text.encode() + b"\0")
        host.send(wire.OPEN, 1, 0, b"echo:\0")
        with pytest.raises((EOFError, ConnectionResetError)):
            host.receive()


def test_a_token_serves_once(port: int, key: PrivateKey, strangers_key: PrivateKey) -> None:
    host = Host(port)
    with host.socket:
        token = host.hello()
        host.send(wire.AUTH, wire.AUTH_SIGNATURE, 0, strangers_key.sign(token))
        assert host.receive()[0] == wire.AUTH
        host.send(wire.AUTH, wire.AUTH_SIGNATURE, 0, key.sign(token))
        assert host.receive()[0] == wire.AUTH


def test_services_before_the_greeting_end_the_connection(port: int) -> None:
    host = Host(port)
    with host.socket:
        host.send(wire.OPEN, 1, 0, b"echo:\0")
        with pytest.raises((EOFError, ConnectionResetError)):
            host.receive()


def test_a_stranger_cannot_make_the_daemon_hold_a_megabyte(port: int) -> None:
    host = Host(port)
    with host.socket:
        host.socket.sendall(wire.pack(wire.CNXN, wire.VERSION, wire.MAX_PAYLOAD, bytes(100_000)))
        with pytest.raises((EOFError, ConnectionResetError)):
            host.receive()


def test_an_unknown_service_is_refused_and_the_connection_goes_on(host: Host) -> None:
    with pytest.raises(Refused):
        host.open("jdwp:1")
    assert host.open("echo:").remote


def test_the_owners_own_server_gets_in_with_another_key(root: Path, key: PrivateKey, strangers_key: PrivateKey) -> None:
    with serving(root, key, owner=os.getuid()) as port:
        host = Host(port)
        with host.socket:
            host.log_in(strangers_key)
            assert host.open("echo:").remote


@pytest.mark.parametrize("owner", [None, os.getuid() + 1])
def test_another_users_server_gets_no_answer(
    root: Path, key: PrivateKey, strangers_key: PrivateKey, owner: int | None
) -> None:
    with serving(root, key, owner=owner) as port:
        host = Host(port)
        with host.socket:
            host.send(wire.AUTH, wire.AUTH_SIGNATURE, 0, strangers_key.sign(host.hello()))
            assert host.receive()[:2] == (wire.AUTH, wire.AUTH_TOKEN)
            host.send(wire.AUTH, wire.AUTH_PUBLIC_KEY, 0, strangers_key.public_text.encode() + b"\0")
            # No answer: the next packet is a command before authentication, which ends the connection.
            host.send(wire.OPEN, 1, 0, b"echo:\0")
            with pytest.raises((EOFError, ConnectionResetError)):
                host.receive()


def test_whose_program_is_at_the_other_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        taken, peer = server.accept()
        with taken:
            assert peer_user(taken.getsockname(), peer) == os.getuid()
            assert peer_user(client.getsockname(), (peer[0], 1)) is None


def _fake_adb(folder: Path, key: PrivateKey) -> str:
    """Stands for `adb keygen FILE` and `adb pubkey FILE`."""
    program = folder / "adb"
    program.write_text(
        f'#!/bin/sh\ncase $1 in\nkeygen) echo private > "$2"; echo {key.public_text!r} > "$2.pub";;\n'
        f"pubkey) echo {key.public_text!r};;\nesac\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_the_users_key_is_made_where_there_is_none(tmp_path: Path, key: PrivateKey) -> None:
    home = tmp_path / "home"
    assert user_keys(_fake_adb(tmp_path, key), {"HOME": str(home)}) == (key.public_text.split()[0],)
    assert (home / ".android/adbkey").exists()


def test_vendor_keys_count_too(tmp_path: Path, key: PrivateKey, strangers_key: PrivateKey) -> None:
    adb = _fake_adb(tmp_path, key)
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    (vendor / "lab.adb_key").write_text("private")
    (vendor / "lab.adb_key.pub").write_text(strangers_key.public_text)
    found = user_keys(adb, {"HOME": str(tmp_path), "ADB_VENDOR_KEYS": str(vendor)})
    assert found == (key.public_text.split()[0], strangers_key.public_text.split()[0])


def test_a_key_that_adb_cannot_read_is_told(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / ".android").mkdir()
    (tmp_path / ".android/adbkey").write_text("x")
    (tmp_path / ".android/adbkey.pub").write_text("not a key")
    with pytest.raises(SetupError, match="no usable adb key"):
        user_keys(_fake_adb(tmp_path, key), {"HOME": str(tmp_path)})


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be made"):
        user_keys(_fake_adb(tmp_path, key), {"HOME": str(tmp_path / "file")})
