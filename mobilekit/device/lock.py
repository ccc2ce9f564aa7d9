"""One validation on a device at a time: a lock that lies on the device, since its users may sit at many machines.

A folder is the lock, for making one is atomic; a file in it, named by a token, says who holds it. The holder is a shell
on the device that waits for the end of its input: its host's death, a pulled cable and a reboot all end it, and a lock
whose holder no longer lives is taken away by the next one who comes. Only the token's own file is removed and then the
empty folder, so that nobody can take away a lock that somebody else has just made.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mobilekit.errors import DeviceError
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.device.base import Device, RemoteProcess

__all__ = ["LOCK", "device_lock"]

LOCK = "/data/local/tmp/mobilekit/lock"

_POLL_S = 1.0
_AGAIN_S = 0.05
_STALE_TIMES = 20
_ANSWER_S = 30.0

_TAKE = """
d=$1; t=$2; who=$3
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
mkdir -p "${d%/*}" 2>/dev/null
if mkdir "$d" 2>/dev/null; then
  if echo "$$ ${boot:--} $who" 2>/dev/null > "$d/$t" && [ -s "$d/$t" ]; then
    echo held
    cat > /dev/null
    rm -f "$d/$t"; rmdir "$d" 2>/dev/null
    exit 0
  fi
  # Made, but not written: the disk is full. Not even made: the folder was taken away meanwhile.
  # Said last: this shell may be ended as soon as it is.
  said=busy
  if [ -e "$d/$t" ]; then rm -f "$d/$t"; said="failed nothing can be written to $d"; fi
  rmdir "$d" 2>/dev/null
  echo "$said"
  exit 0
fi
if [ ! -d "$d" ]; then
  # Whoever held it may just have removed it: only where no folder at all can be made there is something wrong.
  if mkdir "$d.$t" 2>/dev/null; then rmdir "$d.$t"; echo stale; else echo "failed $d cannot be made"; fi
  exit 0
fi
for f in "$d"/*; do
  [ -f "$f" ] || { echo empty; exit 0; }
  read -r pid then who < "$f" || { echo "empty ${f##*/}"; exit 0; }
  if [ "$then" = "${boot:--}" ] && kill -0 "$pid" 2>/dev/null; then echo "busy $who"; exit 0; fi
  rm -f "$f"
done
rmdir "$d" 2>/dev/null
echo stale
"""


@contextmanager
def device_lock(device: Device, *, wait_s: float, progress: Progress = SILENT, folder: str = LOCK) -> Iterator[None]:
    """Hold the device for the time of the block; wait ``wait_s`` for whoever else does.

    Raises :class:`DeviceError` naming the holder where the time runs out, and what the device raises.
    """
    token = secrets.token_hex(8)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    who = f"{_user()}@{platform.node() or '?'},process={os.getpid()},since={now}".replace(" ", "_")
    deadline = time.monotonic() + wait_s
    told = False
    nobody: str | None = None
    stale = 0
    while True:
        holder = device.spawn(["sh", "-c", _TAKE, "sh", folder, token, who])
        try:
            said, _, owner = holder.readline(_ANSWER_S).partition(" ")
        except BaseException:
            holder.close()
            raise
        if said == "held":
            break
        holder.close()
        if said == "failed":
            hint = (
                "is /data/local/tmp writable, and is there room? `mobilekit device clean` takes away what mobilekit, or"
                " something in its place, left there"
            )
            raise DeviceError(f"{device.serial}: cannot take the lock: {owner}", hint=hint)
        if said == "empty":
            # Somebody is just taking it, or died on the way (a full disk and a power cut leave an empty file): then
            # nothing more stands in it a second later either.
            if nobody == owner:
                _forget(device, folder, owner)
            nobody, owner = owner, ""
        if time.monotonic() >= deadline and said != "stale":
            by = owner.replace(",", ", ").replace("=", " ") or "another mobilekit"
            raise DeviceError(
                f"{device.serial} is in use by {by}; waited {wait_s:g} s",
                hint="wait longer with --wait SECONDS, or use another device",
            )
        if owner and not told:
            progress.note(f"waiting for {device.serial}, in use by {owner.replace(',', ', ').replace('=', ' ')}")
            told = True
        if said == "stale":  # a dead one's was taken away, or just went by itself
            stale += 1
            if stale > _STALE_TIMES and time.monotonic() >= deadline:
                raise DeviceError(
                    f"{device.serial}: cannot take the lock: what a dead holder left in {folder} cannot be removed",
                    hint="is /data/local/tmp writable? `mobilekit device clean` removes all that mobilekit put there",
                )
            time.sleep(_AGAIN_S)
            continue
        time.sleep(min(_POLL_S, max(0.05, deadline - time.monotonic())))
    try:
        yield
    finally:
        _release(device, holder, folder, token)


def _release(device: Device, holder: RemoteProcess, folder: str, token: str) -> None:
    with suppress(DeviceError):  # a device that is gone holds nothing
        holder.close()
        device.shell(["sh", "-c", 'rm -f "$1/$2"; rmdir "$1" 2>/dev/null; :', "sh", folder, token], timeout_s=10)


def _forget(device: Device, folder: str, name: str) -> None:
    """Remove an empty file, and the folder where nothing else is in it."""
    if re.fullmatch(r"[0-9a-f]*", name):  # what another program put there is not ours to remove
        device.shell(["sh", "-c", '[ -z "$2" ] || rm -f "$1/$2"; rmdir "$1" 2>/dev/null; :', "sh", folder, name])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "?"
