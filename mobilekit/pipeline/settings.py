"""How ncnn runs a bundle's model at a place: as the user says, else as it was tuned, else as ncnn chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import BundleError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions
from mobilekit.tuning import Cluster, Setting, Tuned, TunedPlace

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, Manifest
    from mobilekit.report.model import DeviceFacts

__all__ = ["default_setting", "place_of", "remember", "run_options", "setting_at", "setting_of", "tuned_for"]


def place_of(facts: DeviceFacts) -> TunedPlace | None:
    """The kind of device; ``None`` where no ncnn model runs."""
    if facts.kind not in ("adb", "local"):
        return None
    if facts.kind == "local":
        return TunedPlace(kind="local", model=_computer(), abi=facts.abi, cpu_features=facts.cpu_features)
    named = " ".join(filter(None, (facts.manufacturer, facts.model, facts.cpu_profile)))
    return TunedPlace(kind="adb", model=named, abi=facts.abi, cpu_features=facts.cpu_features)


def tuned_for(manifest: Manifest, facts: DeviceFacts) -> Setting | None:
    """What ``mobilekit tune`` wrote for such a device."""
    place = place_of(facts)
    return next((tuned.setting for tuned in manifest.tuned if tuned.place == place), None)


def default_setting(manifest: Manifest, facts: DeviceFacts) -> Setting:
    """As ncnn chooses, in the arithmetic that the bundle was exported for; on a virtual device one thread, since there
    threads that wait for each other cost most."""
    ncnn = manifest.ncnn
    return Setting(threads=int(facts.virtual), fp16=ncnn is not None and ncnn.precision == "fp16")


def setting_at(
    manifest: Manifest,
    facts: DeviceFacts,
    *,
    threads: int = 0,
    cluster: Cluster | None = None,
    precision: Literal["fp32", "fp16"] | None = None,
    tuned: bool = True,
    progress: Progress = SILENT,
) -> tuple[Setting, bool]:
    """The setting, and whether it is the tuned one. ``threads``, ``cluster`` and ``precision`` override their part
    of it."""
    known = tuned_for(manifest, facts) if tuned else None
    setting = known or default_setting(manifest, facts)
    if threads:
        setting = replace(setting, threads=threads)
    if cluster is not None:
        setting = replace(setting, cluster=cluster)
    if precision is not None:
        setting = replace(setting, fp16=precision == "fp16")
    if known is not None:
        progress.note(f"as tuned for this device: {setting}")
    elif tuned and manifest.tuned and place_of(facts) is not None:
        progress.note(f"tuned for {'; '.join(str(each.place) for each in manifest.tuned)}, not for this device")
    return setting, known is not None


def run_options(setting: Setting, *, timeout_s: float = 300.0) -> RunOptions:
    return RunOptions(
        threads=setting.threads,
        cluster=setting.cluster,
        fp16=setting.fp16,
        winograd=setting.winograd,
        packing=setting.packing,
        timeout_s=timeout_s,
    )


def setting_of(run: RunOptions) -> Setting:
    """The opposite of :func:`run_options`."""
    return Setting(threads=run.threads, cluster=run.cluster, fp16=run.fp16, winograd=run.winograd, packing=run.packing)


def remember(bundle: Bundle, place: TunedPlace, setting: Setting | None) -> bool:
    """Write ``setting`` into the bundle's manifest as the one for ``place``; ``None``: there is none any more. Whether
    that changed anything.

    What was tuned for other places stays, also where that happened since ``bundle`` was opened. Raises
    :class:`BundleError` where the bundle was replaced meanwhile, :class:`~mobilekit.errors.StorageError` where it
    cannot be written; then it is as it was.
    """
    from mobilekit.bundle import MANIFEST, manifest_text, open_bundle
    from mobilekit.paths import write_text

    now = open_bundle(bundle.root, check=False).manifest
    if now.files != bundle.manifest.files:
        raise BundleError(
            f"{bundle.root} was written anew while it was tuned: nothing was changed", hint="tune it again"
        )
    others: Sequence[Tuned] = [tuned for tuned in now.tuned if tuned.place != place]
    tuned = (*others, *([Tuned(place=place, setting=setting)] if setting is not None else []))
    if tuned == now.tuned:
        return False
    write_text(bundle.root / MANIFEST, manifest_text(replace(now, tuned=tuned)))
    return True


def _computer() -> str:
    """This machine's processor and how many of it: ``AMD EPYC 7B13, 2 cores``."""
    import os
    import platform

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count() or 1} cores"
