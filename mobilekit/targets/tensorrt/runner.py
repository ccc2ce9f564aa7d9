"""A plan on a GPU, as a :class:`~mobilekit.runners.base.Runner`; the worker does the work, here or elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import ChildError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from mobilekit.targets.tensorrt.flavour import FLAVOURS
from mobilekit.targets.tensorrt.host import Gpu, WorkerHost, job_folder
from mobilekit.tensors import load_npy

if TYPE_CHECKING:
    from mobilekit.bundle import TensorRTArtifact
    from mobilekit.tensors import Array

__all__ = ["GpuOptions", "PlanRunner"]

_PLAN = "model.plan"


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """``streams``: throughput is measured for each number of execution contexts side by side. ``settle``: timing
    begins when the times are stable, after the warm-up that is asked for. ``plugins``: creators that a plan of full
    TensorRT needs, ``module:Class``; the process that runs it imports them."""

    streams: tuple[int, ...] = ()
    cuda_graph: bool = True
    settle: bool = False
    plugins: tuple[str, ...] = ()


class PlanRunner:
    """The plan of ``artifact``, below ``root``, on one GPU of ``host``. Loaded once; inputs stream through.

    The latencies of a run are the host's: inputs to the GPU, the plan, outputs back. ``facts["gpu"]`` of a run that
    was timed is the worker's answer, see :func:`mobilekit.targets.tensorrt.worker.trtwork.run.run`. ``doubles`` are the
    outputs that the model gives in float64, which TensorRT does not have. Raises
    :class:`~mobilekit.errors.NoDeviceError` without a GPU, :class:`~mobilekit.errors.SetupError` for a plan of another
    version or GPU, :class:`~mobilekit.errors.UsageError` for shapes outside the plan's profiles,
    :class:`~mobilekit.errors.BundleError` for a damaged plan.
    """

    def __init__(
        self,
        root: Path,
        artifact: TensorRTArtifact,
        host: WorkerHost,
        gpu: Gpu,
        options: GpuOptions | None = None,
        progress: Progress = SILENT,
        doubles: Collection[str] = (),
    ) -> None:
        self._plan = root / artifact.plan
        self._flavour = FLAVOURS[artifact.flavour]
        self._host = host
        self._gpu = gpu
        self._options = options or GpuOptions()
        self._progress = progress
        self._version = artifact.version
        self._doubles = frozenset(doubles)

    def __enter__(self) -> PlanRunner:
        self._host.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._host.__exit__(*exc)

    @property
    def place(self) -> tuple[WorkerHost, Gpu]:
        return self._host, self._gpu

    def info(self) -> RunnerInfo:
        return RunnerInfo(name=self._flavour.product, version=self._version, device=self._gpu.name)

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        import numpy as np

        files = {name: f"input{index}.npy" for index, name in enumerate(inputs)}
        timed = options.iterations > 1
        arguments = {
            "module": self._flavour.module,
            "plan": _PLAN,
            "samples": [files],
            "iterations": options.iterations,
            "warmup": options.warmup,
            "settle": timed and self._options.settle,
            "streams": list(self._options.streams) if timed else [],
            "cuda_graph": timed and self._options.cuda_graph,
            "device": self._gpu.index,
            "plugins": list(self._options.plugins),
        }
        what = f"the plan on {self._gpu.name}"
        with job_folder("run", arguments, {_PLAN: self._plan}) as folder:
            for name, file in files.items():
                np.save(folder / file, inputs[name], allow_pickle=False)
            answer = self._host.perform(folder, what=what, timeout_s=options.timeout_s, progress=self._progress)
            for warning in answer.get("warnings", ()) if timed else ():
                self._progress.note(f"TensorRT: {warning}")
            try:
                self._version = str(answer["version"])
                outputs = {str(name): load_npy(folder / Path(file).name) for name, file in answer["outputs"][0].items()}
                outputs |= {name: outputs[name].astype(np.float64) for name in self._doubles & outputs.keys()}
                return RunResult(
                    outputs=outputs,
                    latencies_ns=tuple(round(ms * 1e6) for ms in answer["latency"]["wall"]),
                    load_ns=round(answer["load_ms"] * 1e6),
                    facts={"gpu": answer} if timed else {},
                )
            except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
                raise ChildError(f"{what} gave an answer that makes no sense", hint="use one mobilekit") from error
