"""The Linux calls that Python has no name for: namespaces, mounts, capabilities, confined path look-up."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

__all__ = [
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "drop_capabilities",
    "join_new_session_keyring",
    "mount",
    "openat2",
    "pivot_root",
    "prctl",
    "sethostname",
    "umount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_OPENAT2 = 437  # the same on every architecture
_NUMBERS = {"x86_64": {"pivot_root": 155, "keyctl": 250}, "aarch64": {"pivot_root": 41, "keyctl": 219}}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new: str, old: str) -> None:
    number = _NUMBERS[platform.machine()]["pivot_root"]
    _check(_libc.syscall(ctypes.c_long(number), os.fsencode(new), os.fsencode(old)), new)


def sethostname(name: str) -> None:
    data = os.fsencode(name)[:64]
    _check(_libc.sethostname(data, ctypes.c_size_t(len(data))), "sethostname")


def prctl(option: int, value: int = 0) -> int:
    return _check(int(_libc.prctl(option, value, 0, 0, 0)), f"prctl {option}")


def set_process_name(name: str) -> None:
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def join_new_session_keyring() -> None:
    """Leave the user's keys behind; kernels without keyrings have none to leave."""
    number = _NUMBERS[platform.machine()]["keyctl"]
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)
    if result < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM):
        _check(-1, "keyctl")


def drop_capabilities() -> None:
    """Give up every capability for good: bounding, ambient, permitted, effective, inheritable."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # the kernel knows no more
                break
            raise
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def openat2(
    folder: int, path: str, flags: int, mode: int = 0, *, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
) -> int:
    """Open ``path`` as if the directory ``folder`` were ``/``: neither ``..`` nor a symlink leads out of it."""
    data = os.fsencode(path)
    if b"\0" in data:
        raise OSError(errno.EINVAL, "a null byte in a path", path)
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(64):
        result = _libc.syscall(ctypes.c_long(_OPENAT2), ctypes.c_int(folder), data, how, ctypes.c_size_t(len(how)))
        # EAGAIN: a rename happened during the look-up, and the kernel could not prove that it stayed inside.
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    return int(_check(result, path))
