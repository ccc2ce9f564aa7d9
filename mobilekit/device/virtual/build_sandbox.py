"""Make the sandbox: namespaces, a root of its own, and no way back. Runs once, in the process that becomes its init.

A user namespace *A* owns the mounts and its own ``binfmt_misc`` (Linux 6.7), which hands arm64 programs to qemu. In it,
a second one, *B*, maps the user to Android's ``shell`` and is where everything runs: without a capability, and without
rights over what A mounted. Every host file that is needed is opened before the old root goes away.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import socket
import struct
import tarfile
from pathlib import Path

from mobilekit.device.virtual import kernel
from mobilekit.device.virtual.layout import SHELL_ID, Settings, cpuinfo, properties

__all__ = ["SandboxError", "build", "enter_namespaces", "unpack_root", "write_device_files"]

_NEW_ROOT = "/tmp"  # noqa: S108 - only a mount point that exists everywhere; nothing in the host's folder is touched
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ROOT_BYTES = 96 * 1024 * 1024
# ELF64, little-endian, executable or shared object, EM_AARCH64; the masks let ABI and padding bytes vary.
_MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


class SandboxError(Exception):
    """A step failed: ``step`` names it, ``number`` is the errno."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(f"{step}: {os.strerror(number)}")
        self.step, self.number = step, number


class _Step:
    """Name what is being done, so that a refusal by the kernel can be told in words."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if isinstance(value, OSError):
            raise SandboxError(self._name, value.errno or errno.EIO) from value


def enter_namespaces() -> None:
    """Step one, before the fork that makes a process number 1: all namespaces, and user namespace A."""
    uid, gid = os.geteuid(), os.getegid()
    with _Step("user namespace"):
        kernel.unshare(
            kernel.CLONE_NEWUSER
            | kernel.CLONE_NEWNS
            | kernel.CLONE_NEWPID
            | kernel.CLONE_NEWNET
            | kernel.CLONE_NEWIPC
            | kernel.CLONE_NEWUTS
        )
    with _Step("user map"):
        _map_ids(0, uid, 0, gid)


def _map_ids(inner_uid: int, outer_uid: int, inner_gid: int, outer_gid: int) -> None:
    # /proc/self belongs to us only while we are dumpable; nobody to be guarded against runs in here yet.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inner_uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inner_gid} {outer_gid} 1")
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def build(settings: Settings, archive: bytes, qemu: bytes | None) -> int:
    """Step two, as process 1. Returns the device's ``/``, opened. Raises :class:`SandboxError`."""
    os.umask(0o022)
    with _Step("mounts"):
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(
            "mobilekit", _NEW_ROOT, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=0755,size={_ROOT_BYTES}"
        )
    root = Path(_NEW_ROOT)
    with _Step("root files"):
        unpack_root(archive, root)
        write_device_files(settings, root)
        info = cpuinfo(settings)
        if info:
            (root / "system/etc/cpuinfo").write_text(info)
    with _Step("data partition"):
        options = f"mode=0755,size={settings.storage_bytes}"
        kernel.mount("data", str(root / "data"), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        make_data(root)
        (root / "data").chmod(0o551)
        (root / "data/local").chmod(0o551)
    with _Step("/dev"):
        _make_dev(root / "dev")
    with _Step("/proc"):
        kernel.mount("proc", str(root / "proc"), "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    if qemu is not None:
        _register_qemu(root, qemu)
    if info:
        with _Step("/proc/cpuinfo"):
            _bind_read_only(str(root / "system/etc/cpuinfo"), str(root / "proc/cpuinfo"))
    with _Step("network"):
        _loopback_up()
    kernel.sethostname("mobilekit")
    with _Step("pivot_root"):
        os.chdir(_NEW_ROOT)
        kernel.pivot_root(".", ".")
        kernel.umount(".")
        os.chdir("/")
    with _Step("read-only root"):
        # One user namespace exists below A: B, made next. Programs on the device make no others.
        Path("/proc/sys/user/max_user_namespaces").write_text("1")
        _remount_read_only("/", kernel.MS_NOSUID | kernel.MS_NODEV)
        _remount_read_only("/dev", kernel.MS_NOSUID | kernel.MS_NOEXEC)
        for place in ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs"):
            if Path(place).is_dir():
                _bind_read_only(place, place, kernel.MS_REC)
    with _Step("second user namespace"):
        kernel.join_new_session_keyring()
        kernel.unshare(kernel.CLONE_NEWUSER)
        _map_ids(SHELL_ID, 0, SHELL_ID, 0)
    with _Step("capabilities"):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.drop_capabilities()
    return os.open("/", os.O_PATH | os.O_DIRECTORY)


def unpack_root(archive: bytes, root: Path) -> None:
    """The root's tar: folders, files and symlinks. Nothing is written through a symlink or outside ``root``.

    Raises ``OSError`` (EINVAL) for anything else. (tarfile's own filters refuse Android's absolute links, and are not
    in every Python 3.11.)
    """
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        links: list[tuple[Path, str]] = []
        for member in tar:
            parts = member.name.split("/")
            if not parts or any(part in ("", ".", "..") for part in parts):
                raise OSError(errno.EINVAL, "an unsafe name in the root's archive", member.name)
            place = root.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                links.append((place, member.linkname))
            elif member.isdir():
                place.mkdir(exist_ok=True)
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                place.write_bytes(content.read())
                place.chmod(member.mode & 0o777)
            else:
                raise OSError(errno.EINVAL, "neither file nor folder nor link in the root's archive", member.name)
        # Last, so that no name above could lead through one.
        for place, target in links:
            place.symlink_to(target)


def make_data(root: Path) -> None:
    for folder, mode in (("data/local/tmp", 0o771), ("data/media/0", 0o770)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)


def write_device_files(settings: Settings, root: Path) -> None:
    """What differs from device to device: properties, and the CPUs in ``/sys``."""
    (root / "system/build.prop").write_text(properties(settings))
    cpus = root / "sys/devices/system/cpu"
    cpus.mkdir(parents=True, exist_ok=True)
    span = f"0-{settings.cpu_count - 1}\n" if settings.cpu_count > 1 else "0\n"
    for name in ("possible", "present", "online"):
        (cpus / name).write_text(span)
    for index in range(settings.cpu_count):
        (cpus / f"cpu{index}").mkdir(exist_ok=True)


def _make_dev(dev: Path) -> None:
    kernel.mount("dev", str(dev), "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=0755,size=1m")
    for name in _DEVICES:
        if not Path(f"/dev/{name}").is_char_device():
            # A file in its place (some program run by root wrote there) would be bound as well, and be read-only.
            raise OSError(errno.ENODEV, "not a device", f"/dev/{name}")
        (dev / name).touch()
        kernel.mount(f"/dev/{name}", str(dev / name), flags=kernel.MS_BIND)
    (dev / "pts").mkdir()
    kernel.mount(
        "devpts",
        str(dev / "pts"),
        "devpts",
        kernel.MS_NOSUID | kernel.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    )
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")


def _register_qemu(root: Path, qemu: bytes) -> None:
    """A copy of qemu on a read-only mount of its own: ``/proc/self/exe`` on the device leads to no file of the host."""
    place = root / "vendor/qemu"
    with _Step("qemu"):
        place.mkdir(parents=True)
        kernel.mount("qemu", str(place), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=256m")
        (place / "qemu").write_bytes(qemu)
        (place / "qemu").chmod(0o555)
        _remount_read_only(str(place), kernel.MS_NOSUID | kernel.MS_NODEV)
    binfmt = root / "proc/sys/fs/binfmt_misc"
    with _Step("binfmt_misc"):
        kernel.mount("binfmt_misc", str(binfmt), "binfmt_misc")
        # F: the interpreter is opened now, and is found whatever root a program has.
        line = f":arm64:M::{_MAGIC}:{_MASK}:{place / 'qemu'}:F"
        (binfmt / "register").write_text(line)
        _remount_read_only(str(binfmt), kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    with _Step("qemu"):
        kernel.umount(str(place))
        place.rmdir()


def _bind_read_only(source: str, target: str, extra: int = 0) -> None:
    kernel.mount(source, target, flags=kernel.MS_BIND | extra)
    _remount_read_only(target, kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)


def _remount_read_only(target: str, flags: int) -> None:
    kernel.mount("none", target, flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", answer, 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
