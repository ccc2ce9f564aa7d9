"""What a virtual device is made of: its settings, its environment, its properties, its fake ``/proc/cpuinfo``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ABIS", "CPU_PROFILES", "SHELL_ID", "CpuProfile", "Settings", "cpuinfo", "environment", "properties"]

ABIS = {"arm64-v8a": "aarch64", "x86_64": "x86_64"}
# Android's AID_SHELL.
SHELL_ID = 2000

_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_MAX = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 asimdfhm flagm dcpodp flagm2 frint i8mm bf16"
)


@dataclass(frozen=True, slots=True)
class CpuProfile:
    """``qemu`` is the value of ``QEMU_CPU``; ``part`` and ``implementer`` are the MIDR fields shown in cpuinfo."""

    name: str
    qemu: str
    implementer: int
    part: int
    features: str
    summary: str


CPU_PROFILES = {
    profile.name: profile
    for profile in (
        CpuProfile("cortex-a53", "cortex-a53", 0x41, 0xD03, _V8, "NEON only"),
        CpuProfile("cortex-a57", "cortex-a57", 0x41, 0xD07, _V8, "NEON only"),
        CpuProfile("cortex-a72", "cortex-a72", 0x41, 0xD08, _V8, "NEON only"),
        CpuProfile("cortex-a76", "cortex-a76", 0x41, 0xD0B, _V8_2, "fp16 arithmetic, dot product"),
        CpuProfile("neoverse-n1", "neoverse-n1", 0x41, 0xD0C, _V8_2, "fp16 arithmetic, dot product"),
        CpuProfile("a64fx", "a64fx", 0x46, 0x001, _V8_2.replace(" asimddp", " fcma sve"), "fp16 arithmetic, SVE"),
        CpuProfile("max", "max,sve=off", 0x00, 0x051, _MAX, "fp16, dot product, fhm, bf16, i8mm"),
        CpuProfile("max-sve", "max", 0x00, 0x051, _MAX + " sve sve2", "all of max, SVE, SVE2"),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon is started with; travels as JSON. Paths are the host's. Empty ``qemu``: the ABI is native."""

    name: str
    abi: str
    cpu: str
    mode: str
    port: int
    storage_bytes: int
    cpu_count: int
    root_archive: str
    folder: str
    keys: tuple[str, ...]
    qemu: str = ""
    proot: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Settings:
        return cls(**{**value, "keys": tuple(value["keys"])})


def environment(settings: Settings) -> dict[str, str]:
    """What a command on the device starts with; the host's variables do not reach it."""
    variables = {
        "ANDROID_DATA": "/data",
        "ANDROID_ROOT": "/system",
        "ENV": "/system/etc/mkshrc",
        "HOME": "/",
        "HOSTNAME": "mobilekit",
        "LOGNAME": "shell",
        "PATH": "/product/bin:/system/bin:/system/xbin:/vendor/bin",
        "SHELL": "/system/bin/sh",
        "TERM": "dumb",
        "TMPDIR": "/data/local/tmp",
        "USER": "shell",
    }
    if settings.qemu:
        variables["QEMU_CPU"] = CPU_PROFILES[settings.cpu].qemu
    return variables


def properties(settings: Settings) -> str:
    """``/system/build.prop``, honest about being no phone. Android 14 (API 34) is the level of its paths."""
    values = {
        "ro.build.characteristics": "default",
        "ro.build.fingerprint": f"mobilekit/virtual/{settings.cpu}:14/mobilekit/0:userdebug/test-keys",
        "ro.build.version.release": "14",
        "ro.build.version.sdk": "34",
        "ro.debuggable": "0",
        "ro.mobilekit.cpu": settings.cpu,
        "ro.mobilekit.name": settings.name,
        "ro.mobilekit.sandbox": "none" if settings.mode == "proot" else settings.mode,
        "ro.mobilekit.virtual": "1",
        "ro.product.board": "virtual",
        "ro.product.brand": "mobilekit",
        "ro.product.cpu.abi": settings.abi,
        "ro.product.cpu.abilist": settings.abi,
        "ro.product.cpu.abilist64": settings.abi,
        "ro.product.device": "virtual",
        "ro.product.manufacturer": "mobilekit",
        "ro.product.model": f"mobilekit virtual {settings.cpu}",
        "ro.product.name": "mobilekit_virtual",
        "ro.serialno": f"127.0.0.1:{settings.port}",
        "sys.boot_completed": "1",
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def cpuinfo(settings: Settings) -> str:
    """``/proc/cpuinfo`` of the CPU profile, as an arm64 kernel prints it; empty where the host's own is right."""
    if not settings.qemu:
        return ""
    profile = CPU_PROFILES[settings.cpu]
    return "".join(
        f"processor\t: {index}\n"
        "BogoMIPS\t: 38.40\n"
        f"Features\t: {profile.features}\n"
        f"CPU implementer\t: 0x{profile.implementer:02x}\n"
        "CPU architecture: 8\n"
        "CPU variant\t: 0x0\n"
        f"CPU part\t: 0x{profile.part:03x}\n"
        "CPU revision\t: 0\n\n"
        for index in range(settings.cpu_count)
    )
