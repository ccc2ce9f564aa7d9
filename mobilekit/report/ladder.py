"""The ladder: the same samples through every step from the original model to the device, and where they part."""

from __future__ import annotations

from collections.abc import Sequence

from mobilekit.report.base import Frozen
from mobilekit.validate.tolerance import Verdict

__all__ = ["LadderReport", "RungOutput", "RungReport", "lost_at", "sentence"]


class RungOutput(Frozen):
    """One output of the model at one rung, the worst over the samples.

    ``relative_l2`` is held against the first rung and judged by ``rtol`` (``None``: another limit of the user's);
    ``step`` is the distance to the rung before, on the same samples. All three are those of the part that fails where
    ``reason`` names one.
    """

    name: str
    relative_l2: float
    step: float | None
    rtol: float | None
    verdict: Verdict
    reason: str


class RungReport(Frozen):
    """A step that could be taken, or (``omitted``, with the reason) could not.

    ``name`` identifies it (``"legalised"``), ``title`` says what computed there, ``before`` names the rung that it
    follows from, ``format`` the number format of its weights and results.
    """

    name: str
    title: str
    before: str = ""
    format: str = ""
    omitted: str = ""
    outputs: tuple[RungOutput, ...] = ()
    verdict: Verdict | None = None

    @property
    def worst(self) -> RungOutput | None:
        """The output furthest from the first rung."""
        return max(self.outputs, key=lambda output: output.relative_l2, default=None)


class LadderReport(Frozen):
    """``first`` is the rung that all others are held against; ``lost_at`` the first that fails though the one before
    it does not (``None``: none does); ``sentence`` says it in words."""

    first: str
    samples: tuple[str, ...]
    rungs: tuple[RungReport, ...]
    lost_at: str | None
    sentence: str


_MEANS = {
    "float64": "ONNX Runtime itself is off: its float32 is not enough for this model",
    "simplified": "folding and inlining changed the model: --verify-passes of export names the pass",
    "legalised": "a rewrite of the converter changed the model: --verify-passes of export names it",
    "ncnn host": "the ncnn model is not what was converted, or a layer computes something else: bisect names it",
    "ncnn host bf16": "bfloat16 is too coarse for this model",
    "ncnn host int8": "int8 is too coarse for this model as it was calibrated, or a layer is wrong: bisect tells",
    "device cpu": "the device computes something else than ncnn does here: its kernels, or its number format",
    "device gpu": "the GPU computes something else than the CPU beside it: its kernels, or its number format",
    "tensorrt prepared": "preparing the model for TensorRT, or its number format, cost the accuracy",
    "tensorrt": "the plan computes something else than the model it was built from",
}


def lost_at(rungs: Sequence[RungReport]) -> RungReport | None:
    """The first rung that fails though the one before it does not; a rung that was left out is passed over."""
    known = {rung.name: rung for rung in rungs}
    for rung in rungs:
        before = known.get(rung.before)
        while before is not None and before.omitted:
            before = known.get(before.before)
        if rung.verdict is Verdict.FAIL and (before is None or before.verdict is not Verdict.FAIL):
            return rung
    return None


def sentence(rungs: Sequence[RungReport]) -> str:
    """One sentence: the rung that lost the accuracy and what that means; or that none did, and the longest step."""
    lost = lost_at(rungs)
    if lost is not None:
        worst = max((o for o in lost.outputs if o.verdict is Verdict.FAIL), key=lambda o: o.relative_l2)
        figure = f"{worst.name}: {worst.reason}"
        step = f", {worst.step:.2g} of it in this step" if worst.step is not None else ""
        return f"the accuracy is lost at {lost.name!r} ({figure}{step}); {_MEANS[lost.name]}"
    climbed = [rung for rung in rungs if rung.worst is not None and rung.before]
    if not climbed:
        return "no rung could be taken"
    furthest = max(climbed, key=lambda rung: rung.worst.relative_l2 if rung.worst else 0.0)
    assert furthest.worst is not None
    unproven = [rung.name for rung in climbed if rung.verdict is Verdict.INCONCLUSIVE]
    doubt = f"; nothing is proven at {', '.join(unproven)}" if unproven else ""
    return (
        f"no rung lost the accuracy: furthest from the original is {furthest.name!r}, "
        f"relative L2 {furthest.worst.relative_l2:.2g} in {furthest.worst.name}{doubt}"
    )
