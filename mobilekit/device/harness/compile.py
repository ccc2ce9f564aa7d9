"""CMake and ninja as child processes: progress from ninja's own count, a log file, and nothing left running."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilekit import interrupts
from mobilekit.errors import BuildError
from mobilekit.paths import storage_errors
from mobilekit.progress import SILENT, Progress, Task

__all__ = ["Compilation"]

_COUNT = re.compile(rb"\[(\d+)/(\d+)\] ")
_NO_SPACE = b"No space left on device"
_LAST_LINES = 12


@dataclass(slots=True)
class Compilation:
    """``log`` gets everything that CMake and the compilers say."""

    cmake: Path
    ninja: Path
    jobs: int | None
    log: Path

    def run(
        self,
        text: str,
        *,
        source: Path,
        build: Path,
        arguments: Sequence[str],
        targets: Sequence[str],
        environment: Mapping[str, str],
        progress: Progress = SILENT,
    ) -> None:
        """Configure ``source`` in ``build`` and make ``targets``. Raises :class:`BuildError`."""
        with storage_errors(build):
            build.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        env = self._environment(environment, build)
        configure = [self.cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={self.ninja}", "-S", source, "-B", build]
        progress.step(f"configuring: {text}")
        self._call([*map(str, configure), *arguments], text, env, None)
        ninja = [str(self.ninja), "-C", str(build), *targets]
        dry = subprocess.run([*ninja, "-n"], capture_output=True, env=env, check=False)
        counts = _COUNT.findall(dry.stdout)
        if self.jobs is not None:
            ninja.append(f"-j{self.jobs}")
        with progress.task(text, int(counts[-1][1]) if counts else None, unit="steps") as task:
            self._call(ninja, text, env, task)

    def install(self, build: Path, prefix: Path, *, environment: Mapping[str, str]) -> None:
        """``cmake --install`` into ``prefix``."""
        command = [str(self.cmake), "--install", str(build), "--prefix", str(prefix)]
        self._call(command, "installing", self._environment(environment, build), None)

    def _environment(self, extra: Mapping[str, str], build: Path) -> dict[str, str]:
        # ccache then knows a file again when the build folder has another name.
        ccache = {"CCACHE_BASEDIR": str(build.parent.parent), "CCACHE_NOHASHDIR": "1"}
        return {**ccache, **os.environ, **extra, "NINJA_STATUS": "[%f/%t] "}

    def _call(self, command: Sequence[str], what: str, env: Mapping[str, str], task: Task | None) -> None:
        nice = [found, "-n", "10"] if (found := shutil.which("nice")) else []
        with self.log.open("ab", buffering=0) as log:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            with interrupts.started([*nice, *command], env=dict(env), **streams) as process:
                assert process.stdout is not None
                done = 0
                for line in process.stdout:
                    log.write(line)
                    if task is not None and (count := _COUNT.match(line)):
                        task.advance(int(count[1]) - done)
                        done = int(count[1])
                code = process.wait()
        if code != 0:
            raise self._failure(what, code)

    def _failure(self, what: str, code: int) -> BuildError:
        data = self.log.read_bytes()
        lines = data.decode("utf-8", "replace").splitlines()
        # What ninja prints last is not what failed first.
        first = next((i for i, line in enumerate(lines) if line.startswith(("FAILED:", "CMake Error"))), None)
        shown = lines[first : first + _LAST_LINES] if first is not None else lines[-_LAST_LINES:]
        advice = "free some space and try again\n" if _NO_SPACE in data else ""
        return BuildError(
            f"{what} failed (exit code {code}); the log is {self.log}",
            hint=advice + "\n".join(line[:300] for line in shown),
        )
