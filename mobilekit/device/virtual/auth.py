"""ADB AUTH: only a holder of one of the user's own adb keys gets in, or a program of that user.

The daemon sends 20 random bytes; the host signs them as if they were a SHA-1 digest (RSA-2048, PKCS#1 v1.5). Public
keys are Android's ``RSAPublicKey`` struct in base64 (AOSP ``libcrypto_utils/android_pubkey.cpp``): uint32 words count,
uint32 ``-1/n[0] mod 2**32``, modulus and ``R**2 mod n`` (256 bytes each, little-endian), uint32 exponent.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilekit.errors import SetupError

__all__ = ["TOKEN_SIZE", "PublicKey", "parse_public_key", "peer_user", "user_keys", "verify"]

TOKEN_SIZE = 20
_MODULUS_SIZE = 256
_STRUCT_SIZE = 4 + 4 + 2 * _MODULUS_SIZE + 4
# DER of DigestInfo{SHA-1}, RFC 8017 section 9.2.
_SHA1_PREFIX = bytes.fromhex("3021300906052b0e03021a05000414")


@dataclass(frozen=True, slots=True)
class PublicKey:
    modulus: int
    exponent: int


def parse_public_key(text: str) -> PublicKey:
    """``"BASE64 user@host"`` -> key. Raises ``ValueError`` where it is not a 2048-bit Android public key."""
    try:
        data = base64.b64decode(text.split(maxsplit=1)[0], validate=True)
    except (IndexError, binascii.Error) as error:
        raise ValueError("not base64") from error
    if len(data) != _STRUCT_SIZE:
        raise ValueError(f"{len(data)} bytes instead of {_STRUCT_SIZE}")
    words, _ = struct.unpack_from("<II", data)
    if words != _MODULUS_SIZE // 4:
        raise ValueError(f"a modulus of {words} words instead of {_MODULUS_SIZE // 4}")
    modulus = int.from_bytes(data[8 : 8 + _MODULUS_SIZE], "little")
    (exponent,) = struct.unpack_from("<I", data, _STRUCT_SIZE - 4)
    if modulus.bit_length() != 8 * _MODULUS_SIZE or modulus % 2 == 0 or exponent not in (3, 65537):
        raise ValueError("not an RSA-2048 key")
    return PublicKey(modulus, exponent)


def verify(token: bytes, signature: bytes, keys: Iterable[PublicKey]) -> bool:
    """Whether one of ``keys`` signed ``token``."""
    if len(signature) != _MODULUS_SIZE:
        return False
    value = int.from_bytes(signature, "big")
    payload = _SHA1_PREFIX + token
    expected = b"\x00\x01" + b"\xff" * (_MODULUS_SIZE - 3 - len(payload)) + b"\x00" + payload
    good = False
    for key in keys:
        if value < key.modulus:
            opened = pow(value, key.exponent, key.modulus).to_bytes(_MODULUS_SIZE, "big")
            good |= hmac.compare_digest(opened, expected)
    return good


def peer_user(here: tuple[str, int], there: tuple[str, int]) -> int | None:
    """The user id of the program at the other end of a TCP connection over this machine's loopback, as the kernel
    lists its socket (``proc_pid_net(5)``); ``None`` where it lists none. Both ends are ``(IPv4 address, port)``."""
    theirs, ours = _hexadecimal(there), _hexadecimal(here)
    try:
        lines = Path("/proc/self/net/tcp").read_bytes().splitlines()[1:]
    except OSError:
        return None
    for fields in map(bytes.split, lines):
        if fields[1:3] == [theirs, ours]:
            return int(fields[7])
    return None


def _hexadecimal(end: tuple[str, int]) -> bytes:
    (address,) = struct.unpack("=I", socket.inet_aton(end[0]))
    return b"%08X:%04X" % (address, end[1])


def user_keys(adb: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The public keys (as text) that this user's adb server signs with: ``~/.android/adbkey``, ``$ADB_VENDOR_KEYS``.

    Makes the user's key with ``adb keygen`` where there is none yet. Raises :class:`SetupError`.
    """
    environ = os.environ if environ is None else environ
    private = Path(environ.get("HOME") or Path.home()) / ".android" / "adbkey"
    if not private.exists():
        try:
            private.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise SetupError(
                f"no adb key, and {private.parent} cannot be made: {error.strerror}",
                hint="set HOME to a folder that you may write",
            ) from error
        _adb(adb, "keygen", str(private))
    files = [private]
    for entry in filter(None, environ.get("ADB_VENDOR_KEYS", "").split(":")):
        path = Path(entry)
        files += sorted(path.glob("*.adb_key")) if path.is_dir() else [path]
    keys = []
    for file in files:
        text = _public_text(adb, file)
        if text is not None:
            keys.append(text)
    if not keys:
        raise SetupError(
            f"no usable adb key in {private}", hint=f"remove {private} and {private}.pub; they are made anew"
        )
    return tuple(dict.fromkeys(keys))


def _public_text(adb: str, private: Path) -> str | None:
    """The public half, as base64. The private file decides: that is what adb signs with."""
    public = private.with_name(private.name + ".pub")
    candidates = []
    if public.is_file():
        candidates.append(public.read_text("utf-8", "replace"))
    elif private.is_file():
        candidates.append(_adb(adb, "pubkey", str(private)))
    for text in candidates:
        try:
            parse_public_key(text)
        except ValueError:
            continue
        return text.split(maxsplit=1)[0]
    return None


def _adb(adb: str, *arguments: str) -> str:
    try:
        done = subprocess.run([adb, *arguments], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"`{adb} {arguments[0]}` could not run: {error}", hint="reinstall adbutils") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise SetupError(f"`{adb} {' '.join(arguments)}` failed: {said}", hint="check the rights of ~/.android")
    return done.stdout
