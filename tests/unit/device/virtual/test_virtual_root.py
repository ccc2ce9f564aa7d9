"""The root's archive, and what differs from device to device."""

from __future__ import annotations

import errno
import io
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from mobilekit.device.virtual import CPU_PROFILES, machine, start
from mobilekit.device.virtual.build_sandbox import unpack_root
from mobilekit.device.virtual.layout import Settings, cpuinfo, environment, properties
from mobilekit.device.virtual.rootfs import ensure_root, pack_root, skeleton
from mobilekit.errors import SetupError, UsageError


def _settings(**changes: object) -> Settings:
    values = {
        "name": "x", "abi": "arm64-v8a", "cpu": "cortex-a53", "mode": "userns", "port": 6000, "storage_bytes": 2**20,
        "cpu_count": 3, "root_archive": "", "folder": "", "keys": (), "qemu": "/usr/bin/qemu-aarch64-static", **changes,
    }  # fmt: skip
    return Settings.from_json(values)


def _tar(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//x", "./x"])
def test_an_archive_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as caught:
        unpack_root(_tar(_member(name)), tmp_path / "root")
    assert caught.value.errno == errno.EINVAL
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_an_archive_holds_only_files_folders_and_symlinks(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(OSError):
        unpack_root(_tar(_member("x", kind, "/etc/passwd")), tmp_path)


def test_nothing_is_written_through_a_symlink_of_the_archive(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = _tar(_member("link", tarfile.SYMTYPE, str(outside)), _member("link/file"))
    with pytest.raises(OSError):
        unpack_root(archive, tmp_path / "root")
    assert list(outside.iterdir()) == []


def test_the_skeleton_unpacks(tmp_path: Path) -> None:
    unpack_root(skeleton(), tmp_path)
    assert (tmp_path / "system/bin").is_dir()
    assert (tmp_path / "dev").is_dir()


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox-static is not installed")
def test_a_root_from_the_installed_packages_is_the_same_every_time(tmp_path: Path) -> None:
    abi = next(abi for abi in ("arm64-v8a", "x86_64") if machine.is_native(abi))
    for name in ("a", "b"):
        pack_root(abi, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    unpack_root((tmp_path / "a").read_bytes(), tmp_path / "root")
    assert (tmp_path / "root/system/bin/sh").readlink() == Path("mksh")
    for applet in ("ls", "cat", "nc", "tar"):
        assert (tmp_path / f"root/system/bin/{applet}").readlink() == Path("busybox")
    for program in ("busybox", "mksh"):
        assert machine.is_static(tmp_path / f"root/system/bin/{program}")


def _foreign_abi() -> str:
    return next(abi for abi in ("arm64-v8a", "x86_64") if not machine.is_native(abi))


@pytest.mark.usefixtures("private_cache")
def test_without_apt_the_root_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="no apt-get") as caught:
        ensure_root(_foreign_abi())
    assert "mobilekit-harness" in caught.value.hint


def test_a_failing_apt_is_told_and_leaves_nothing(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (("apt-get", "echo E: no network >&2; exit 100"), ("dpkg-deb", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="E: no network"):
        ensure_root(_foreign_abi())
    assert list((private_cache / "virtual").iterdir()) == []


def test_a_root_from_the_harness_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mobilekit_harness").mkdir()
    (tmp_path / "mobilekit_harness/__init__.py").write_text("")
    packed = tmp_path / "mobilekit_harness/root-arm64-v8a.tar"
    packed.write_bytes(skeleton())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mobilekit_harness", raising=False)
    assert ensure_root("arm64-v8a") == packed


def test_the_properties_say_that_it_is_virtual() -> None:
    found = dict(line.split("=", 1) for line in properties(_settings()).splitlines())
    assert found["ro.product.manufacturer"] == "mobilekit"
    assert found["ro.product.model"] == "mobilekit virtual cortex-a53"
    assert found["ro.product.cpu.abilist"] == "arm64-v8a"
    assert found["ro.mobilekit.virtual"] == "1"
    proot = dict(line.split("=", 1) for line in properties(_settings(mode="proot")).splitlines())
    assert proot["ro.mobilekit.sandbox"] == "none"


def test_cpuinfo_shows_the_profile() -> None:
    text = cpuinfo(_settings())
    assert text.count("processor\t:") == 3
    assert "CPU part\t: 0xd03" in text
    assert "asimddp" not in text
    assert "asimddp" in cpuinfo(_settings(cpu="cortex-a76"))
    assert cpuinfo(_settings(qemu="", cpu="host")) == ""


def test_the_hosts_variables_do_not_reach_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    found = environment(_settings(cpu="max"))
    assert "SECRET" not in found
    assert found["QEMU_CPU"] == "max,sve=off"
    assert found["PATH"].split(":")[1] == "/system/bin"
    assert "QEMU_CPU" not in environment(_settings(qemu="", cpu="host"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "../x"}, "no name"),
        ({"name": ""}, "no name"),
        ({"abi": "mips"}, "unknown ABI"),
        ({"cpu": "pentium"}, "unknown CPU profile"),
        ({"mode": "chroot"}, "unknown mode"),
        ({"storage_bytes": 5}, "at least 1M"),
        ({"port": 5555}, "cannot be used"),
        ({"port": 80}, "cannot be used"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        start(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "number", "remedy"),
    [
        ("user namespace", errno.EPERM, "user namespaces"),
        ("user namespace", errno.ENOSPC, "max_user_namespaces"),
        ("binfmt_misc", errno.EPERM, "Linux 6.7"),
        ("/proc", errno.EPERM, "/proc"),
        ("/dev", errno.ENOENT, "/dev"),
        ("port", errno.EADDRINUSE, "--port"),
    ],
)
def test_every_refusal_of_the_kernel_names_a_remedy(step: str, number: int, remedy: str) -> None:
    error = machine.refusal(step, number)
    assert isinstance(error, SetupError)
    assert remedy in error.hint


def test_a_dynamic_qemu_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qemu-aarch64").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.path", [])
    if machine.is_static(Path("/bin/sh")):
        pytest.skip("this machine's shell is static")
    with pytest.raises(SetupError, match="not a static build") as caught:
        machine.find_qemu("arm64-v8a")
    assert "qemu-user-static" in caught.value.hint


def test_profiles_are_those_that_qemu_was_asked_for() -> None:
    assert {"cortex-a53", "cortex-a76", "neoverse-n1", "a64fx", "max"} <= set(CPU_PROFILES)
