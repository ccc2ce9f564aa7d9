"""Files on the device, by content: what is there already is not sent again, and no more than a quota is kept.

``<sha256>`` holds one file (on a phone in ``/data/local/tmp/mobilekit/store``); a name appears only when its file is
whole. A file's time is that of its last use, and the longest unused go first when room is needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilekit.device.base import Host, ShellResult, remedy
from mobilekit.errors import DeviceStorageError, ShellError
from mobilekit.progress import SILENT, Progress

__all__ = ["DEFAULT_QUOTA_BYTES", "ROOT", "Store", "clean"]

ROOT = "/data/local/tmp/mobilekit"
DEFAULT_QUOTA_BYTES = 2 * 1024**3
_RESERVE_BYTES = 16 * 1024**2
_STALE_S = 3600


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size_bytes: int
    used_at: int


@dataclass(frozen=True, slots=True)
class _Listing:
    free_bytes: int
    now: int
    entries: tuple[_Entry, ...]


_FREE = re.compile(r"\s(\d+)\s+(?:\d+%|-)\s+/")
"""Of a line of ``df -P -k``: the kilobytes that are free; what is left and right of that may hold spaces."""

# One round trip: touch what this run needs, then say the time, the free space and every file with size and time.
_LIST = """
mkdir -p "$1" && cd "$1" || exit 1
shift
for name; do [ -f "$name" ] && touch -c "$name"; done
date +%s
df -P -k . | tail -n 1
for name in * .[!.]*; do [ -f "$name" ] && stat -c '%s %Y %n' "$name"; done
exit 0
"""


class Store:
    """The store of one device, in ``folder``. ``quota_bytes`` bounds all files in it together."""

    def __init__(self, device: Host, *, folder: str = f"{ROOT}/store", quota_bytes: int = DEFAULT_QUOTA_BYTES) -> None:
        self._device = device
        self._quota = quota_bytes
        self._folder = folder

    def ensure(
        self, files: Mapping[str, Path], *, executable: Collection[str] = (), progress: Progress = SILENT
    ) -> dict[str, str]:
        """Make sure that the device holds ``files`` (sha256 -> local path); their paths there, by sha256.

        Only what is missing is pushed; those in ``executable`` get mode 755. Where the quota or the device's free
        space asks for it, the longest unused other files are removed first. Raises :class:`DeviceStorageError` with
        the figures, before anything is removed or pushed, where even that would not make room.
        """
        sizes = {sha: path.stat().st_size for sha, path in files.items()}
        listing = self._list(files)
        there = {entry.name: entry.size_bytes for entry in listing.entries}
        missing = [sha for sha in files if there.get(sha) != sizes[sha]]
        self._make_room(sum(sizes[sha] for sha in missing), listing, files)
        for sha in missing:
            mode = 0o755 if sha in executable else 0o644
            self._device.push(files[sha], f"{self._folder}/{sha}", mode=mode, progress=progress)
        return {sha: f"{self._folder}/{sha}" for sha in files}

    def _list(self, wanted: Collection[str]) -> _Listing:
        result = _script(self._device, self._folder, _LIST, *wanted)
        lines = result.stdout.decode("utf-8", "replace").splitlines()
        try:
            free = _FREE.search(lines[1])
            if free is None:
                raise ValueError(lines[1])
            now, free_bytes = int(lines[0]), int(free[1]) * 1024
            entries = []
            for line in lines[2:]:
                size, used_at, name = line.split(" ", 2)
                entries.append(_Entry(name, int(size), int(used_at)))
        except (ValueError, IndexError):
            raise ShellError(
                f"list {self._folder}",
                serial=self._device.serial,
                stdout=result.stdout.decode("utf-8", "replace"),
                hint="its shell gives no usable answer; Android 7 or newer, or Linux, is needed",
            ) from None
        return _Listing(free_bytes, now, tuple(entries))

    def _make_room(self, needed: int, listing: _Listing, wanted: Collection[str]) -> None:
        stale = [e for e in listing.entries if e.name.startswith(".") and listing.now - e.used_at > _STALE_S]
        others = [e for e in listing.entries if not e.name.startswith(".") and e.name not in wanted]
        used = sum(e.size_bytes for e in listing.entries)
        over_quota = used + needed - self._quota
        # Free space matters only where something is to be written.
        over_free = needed + _RESERVE_BYTES - listing.free_bytes if needed else 0
        excess = max(over_quota, over_free)
        evicted = list(stale)
        freed = sum(e.size_bytes for e in stale)
        for entry in sorted(others, key=lambda e: (e.used_at, e.name)):
            if freed >= excess:
                break
            evicted.append(entry)
            freed += entry.size_bytes
        if freed < excess and needed:
            kept = used - sum(e.size_bytes for e in (*stale, *others))
            raise DeviceStorageError(
                f"{self._device.serial}: {_mb(needed)} must be pushed, but it has {_mb(listing.free_bytes)} free"
                f" ({_mb(_RESERVE_BYTES)} are left alone), and mobilekit's quota there is {_mb(self._quota)}, of which"
                f" this run already uses {_mb(kept)}",
                hint="raise --quota" if over_free <= freed else "free some space on the device",
            )
        if evicted:
            _script(self._device, self._folder, 'cd "$1" && shift && rm -f -- "$@"', *(e.name for e in evicted))


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def _script(device: Host, folder: str, text: str, *arguments: str) -> ShellResult:
    result = device.shell(["sh", "-c", text, "sh", folder, *arguments])
    if result.returncode != 0:
        stdout, stderr = (data.decode("utf-8", "replace") for data in (result.stdout, result.stderr))
        if "no space left" in stderr.lower():
            raise DeviceStorageError(
                f"{device.serial}: no space left on the device", hint=f"free some: {stderr.strip()}"
            )
        raise ShellError(
            f"use {folder}",
            serial=device.serial,
            returncode=result.returncode,
            stdout=stdout,
            stderr=stderr,
            hint=remedy(stderr),
        )
    return result


def clean(device: Host, folder: str = ROOT) -> int:
    """Remove everything that mobilekit put on the device; how many bytes of files that were."""
    text = """
[ -e "$1" ] || { echo 0; exit 0; }
find "$1" -type f -exec stat -c %s {} + && rm -rf "$1"
"""
    result = _script(device, folder, text)
    try:
        return sum(int(line) for line in result.stdout.split())
    except ValueError:
        said = result.stdout.decode("utf-8", "replace")
        raise ShellError(f"clean {folder}", serial=device.serial, stdout=said) from None
