"""The device's root as one tar: busybox and mksh (Android's own shell), static, from Debian's packages.

Sources, best first: a root packed into an installed ``mobilekit-harness`` wheel; for the host's own ABI the installed
``busybox-static`` and ``mksh``; ``apt-get download`` in a folder of our own, for any architecture and without root.
The tar is built reproducibly and kept in the cache under a name that holds the recipe's version.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from mobilekit.errors import SetupError
from mobilekit.paths import Scratch, atomic_file, cache_dir
from mobilekit.progress import SILENT, Progress

__all__ = ["DEBIAN_PACKAGES", "ensure_root", "pack_root", "skeleton"]

DEBIAN_PACKAGES = ("busybox-static", "mksh")
_DEBIAN_ARCHITECTURES = {"arm64-v8a": "arm64", "x86_64": "amd64"}
_ELF_MACHINES = {"arm64-v8a": 183, "x86_64": 62}
# Where the packages put their static builds, best first. `mksh-static` is an absolute link, so the files are named.
_PLACES = {
    "busybox": ("bin/busybox", "usr/bin/busybox"),
    "mksh": ("usr/lib/*-linux-musl/bin/mksh", "usr/lib/diet/bin/mksh", "usr/lib/klibc/bin/mksh", "usr/bin/mksh-static"),
}
_RECIPE = 1
_GETPROP = """#!/system/bin/sh
# getprop [NAME [DEFAULT]]
found=
while IFS='=' read -r key value; do
  if [ $# -eq 0 ]; then
    echo "[$key]: [$value]"
  elif [ "$key" = "$1" ]; then
    found=$value
  fi
done < /system/build.prop
if [ $# -gt 0 ]; then
  echo "${found:-$2}"
fi
"""
_SETPROP = """#!/system/bin/sh
echo "setprop: failed to set property '$1': a virtual device's properties are fixed" >&2
exit 1
"""
_MKSHRC = """\
: ${HOSTNAME:=mobilekit} ${USER:=shell}
PS1='$USER@$HOSTNAME:${PWD:-?} $ '
"""
_FILES = {
    "system/bin/getprop": (_GETPROP, 0o755),
    "system/bin/setprop": (_SETPROP, 0o755),
    "system/etc/mkshrc": (_MKSHRC, 0o644),
    "system/etc/passwd": ("root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/:/system/bin/sh\n", 0o644),
    "system/etc/group": ("root:x:0:\nshell:x:2000:\n", 0o644),
    "system/etc/hosts": ("127.0.0.1 localhost\n", 0o644),
}
_FOLDERS = ("data", "dev", "proc", "product/bin", "sys", "system/bin", "system/etc", "system/xbin", "vendor/bin", "mnt")
_LINKS = {"bin": "/system/bin", "etc": "/system/etc", "sdcard": "/data/media/0", "tmp": "/data/local/tmp"}
# Built-in commands of the shell, or of no use on a device that mounts nothing.
_LEFT_OUT = frozenset(("ash", "busybox", "getprop", "hush", "init", "linuxrc", "setprop", "sh", "su"))


def ensure_root(abi: str, progress: Progress = SILENT) -> Path:
    """The tar of the root for ``abi``. Raises :class:`SetupError` where no source has it."""
    packed = _packed(abi)
    if packed is not None:
        return packed
    recipe = hashlib.sha256(repr((_RECIPE, _FILES, _FOLDERS, _LINKS, sorted(_LEFT_OUT))).encode()).hexdigest()[:12]
    path = cache_dir("virtual") / f"root-{abi}-{recipe}.tar"
    if not path.exists():
        with atomic_file(path) as temporary:
            pack_root(abi, temporary, progress)
    return path


def skeleton() -> bytes:
    """A root without programs, for a trial of the sandbox."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in _FOLDERS:
            _add(tar, entry, kind=tarfile.DIRTYPE, mode=0o755)
    return buffer.getvalue()


def _packed(abi: str) -> Path | None:
    spec = importlib.util.find_spec("mobilekit_harness")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / f"root-{abi}.tar"
        if path.is_file():
            return path
    return None


def pack_root(abi: str, path: Path, progress: Progress = SILENT) -> None:
    """Build the root's tar at ``path``, with the licences of what is in it under ``system/etc/licences``."""
    with Scratch("root") as folder:
        parts = _installed(abi) or _downloaded(abi, folder, progress)
        applets = _applets(parts["busybox"].read_bytes())
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for entry in _FOLDERS:
                _add(tar, entry, kind=tarfile.DIRTYPE, mode=0o755)
            for entry, (text, mode) in sorted(_FILES.items()):
                _add(tar, entry, data=text.encode(), mode=mode)
            _add(tar, "system/bin/busybox", data=parts["busybox"].read_bytes(), mode=0o755)
            _add(tar, "system/bin/mksh", data=parts["mksh"].read_bytes(), mode=0o755)
            _add(tar, "system/bin/sh", kind=tarfile.SYMTYPE, link="mksh")
            for applet in applets:
                _add(tar, f"system/bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
            for entry, target in sorted(_LINKS.items()):
                _add(tar, entry, kind=tarfile.SYMTYPE, link=target)
            for part, licence in (("busybox", "busybox-licence"), ("mksh", "mksh-licence")):
                if licence in parts:
                    _add(tar, f"system/etc/licences/{part}", data=parts[licence].read_bytes(), mode=0o644)


def _add(
    tar: tarfile.TarFile,
    name: str,
    *,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o777,
    link: str = "",
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
    tar.addfile(info, io.BytesIO(data))


def _installed(abi: str) -> dict[str, Path] | None:
    """The host's own packages, where they are static and of this ABI."""
    found = {}
    for name in _PLACES:
        path = _find(name, Path("/"), abi)
        if path is None:
            return None
        found[name] = path
    for name, package in (("busybox", "busybox-static"), ("mksh", "mksh")):
        licence = Path(f"/usr/share/doc/{package}/copyright")
        if licence.is_file():
            found[f"{name}-licence"] = licence
    return found


def _find(name: str, root: Path, abi: str) -> Path | None:
    for pattern in _PLACES[name]:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and _is_static(path.read_bytes(), abi):
                return path
    return None


def _is_static(data: bytes, abi: str) -> bool:
    """ELF64 of the ABI's machine without a program interpreter (PT_INTERP = 3)."""
    if data[:6] != b"\x7fELF\x02\x01" or int.from_bytes(data[18:20], "little") != _ELF_MACHINES[abi]:
        return False
    offset = int.from_bytes(data[32:40], "little")
    size, count = int.from_bytes(data[54:56], "little"), int.from_bytes(data[56:58], "little")
    kinds = (int.from_bytes(data[at : at + 4], "little") for at in range(offset, offset + size * count, size))
    return 3 not in kinds


def _downloaded(abi: str, folder: Path, progress: Progress) -> dict[str, Path]:
    hint = "install a mobilekit-harness wheel, made by `mobilekit harness wheel` on a machine with apt"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SetupError(
            f"the virtual device's root for {abi} needs Debian packages, and there is no apt-get", hint=hint
        )
    hint = f"check the network and apt's sources; or {hint}"
    architecture = _DEBIAN_ARCHITECTURES[abi]
    progress.step(f"downloading busybox and mksh for {architecture}")
    for part in ("state", "lists/partial", "cache/archives/partial", "log", "debs"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    config = folder / "apt.conf"
    config.write_text(
        f'APT::Architecture "{architecture}";\n#clear APT::Architectures;\n'
        f'APT::Architectures {{ "{architecture}"; }};\n'
        f'Dir::State "{folder}/state";\nDir::State::status "{folder}/status";\nDir::State::Lists "{folder}/lists";\n'
        f'Dir::Cache "{folder}/cache";\nDir::Log "{folder}/log";\nAPT::Sandbox::User "";\n'
        'Acquire::Languages "none";\nAcquire::Retries "3";\n'
    )
    for arguments in (("update",), ("download", *DEBIAN_PACKAGES)):
        _run(["apt-get", "-q", *arguments], cwd=folder / "debs", config=config, hint=hint)
    parts: dict[str, Path] = {}
    for package in DEBIAN_PACKAGES:
        archives = sorted((folder / "debs").glob(f"{package}_*.deb"))
        if not archives:
            raise SetupError(f"apt-get brought no {package} for {architecture}", hint=hint)
        target = folder / package
        _run(["dpkg-deb", "-x", str(archives[0]), str(target)], cwd=folder, config=config, hint=hint)
        name = "busybox" if package == "busybox-static" else package
        path = _find(name, target, abi)
        if path is None:
            raise SetupError(f"Debian's {package} for {architecture} holds no static {name}", hint=hint)
        parts[name] = path
        licence = target / f"usr/share/doc/{package}/copyright"
        if licence.is_file():
            parts[f"{name}-licence"] = licence
    return parts


def _run(command: list[str], *, cwd: Path, config: Path, hint: str) -> None:
    environ = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"`{' '.join(command[:3])}` could not run: {error}", hint=hint) from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise SetupError(f"`{' '.join(command[:3])}` failed: {said}", hint=hint)


def _applets(busybox: bytes) -> list[str]:
    """busybox' table of applet names: NUL-separated, sorted, beginning with ``[`` and ``[[`` (no need to run it)."""
    start = busybox.find(b"[\0[[\0")
    end = busybox.find(b"\0\0", start)
    names = busybox[start:end].decode("ascii", "replace").split("\0") if start >= 0 else []
    good = [name for name in names if name and "/" not in name and name.isprintable() and name not in _LEFT_OUT]
    if not {"cat", "ls", "mkdir", "rm", "ps"} <= set(good):
        raise SetupError("this busybox holds no table of applets", hint="report this, with its version")
    return good
