"""Reports made up for tests: a plain one, one whose names attack, one of many samples."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from mobilekit.report.answers import Box, BoxPair, ClassPair, Mask, MaskPair, SampleAnswer
from mobilekit.report.bisection import BisectionReport, LayerLine, OutputState, Point, Suspect, TensorRange
from mobilekit.report.endurance import SingleStreamReport, StretchReport, SustainedReport
from mobilekit.report.html import Picture, Subject
from mobilekit.report.instructions import InstructionReport, IsaPath
from mobilekit.report.ladder import LadderReport, RungOutput, RungReport
from mobilekit.report.limits import LimitReport
from mobilekit.report.model import (
    AnswerPair,
    DeviceFacts,
    LatencyReport,
    OutputReport,
    ReferenceFacts,
    RunSettings,
    SampleErrors,
    ValidationReport,
)
from mobilekit.report.parity import (
    CauseReport,
    Effect,
    PairReport,
    ParityReport,
    PixelDifference,
    SamplePair,
    sentence,
)
from mobilekit.report.profile import LayerProfile, Peak, ProfileReport
from mobilekit.report.worst import worst_samples
from mobilekit.validate.tolerance import Verdict

_LONG = "/model/encoder/0/reparameterised_convolution/Conv"
__all__ = ["HOSTILE", "bisection", "large", "output", "parity", "profile", "report", "subject"]

HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=pwned=1>",
    "日本語 ünï\nnext line\r\n" + "a" * 300,
    "tab\there\x1b[31m\u202eback | pipe `tick` \"quote\" 'single' &amp; ]]>",
)


def output(name="prob", **changes):
    values = {
        "name": name,
        "dtype": "float32",
        "shape": (1, 4),
        "verdict": Verdict.PASS,
        "reason": "fine",
        "max_abs": 1e-6,
        "max_rel": 1e-5,
        "relative_l2": 2.5e-6,
        "cosine": 1.0,
        "psnr_db": math.inf,
        "nonfinite_actual": 0,
        "nonfinite_expected": 0,
        "evidence": True,
        "worst_sample": "seed 0",
        "limits": LimitReport(
            rtol=2e-5, cosine=1.0, psnr_db=None, atol=1e-5, basis="derived", format="fp32", format_cost=3e-7
        ),
        "top1_agreement": 1.0,
    }
    return OutputReport(**{**values, **changes})


def report(**changes):
    values = {
        "mobilekit_version": "0.1.0",
        "model": "demo",
        "model_sha256": "0" * 64,
        "precision": "fp32",
        "device": DeviceFacts(
            kind="adb",
            serial="127.0.0.1:5600",
            model="virtual arm64",
            manufacturer="mobilekit",
            android="14",
            abi="arm64-v8a",
            cpu_features=("neon", "asimdhp"),
            virtual=True,
            cpu_profile="cortex-a76",
            runner="harness",
            runner_version="0.1.0 (ncnn 1.0.20261020)",
        ),
        "reference": ReferenceFacts(name="ONNX Runtime CPU", version="1.32.0"),
        "settings": RunSettings(inputs="seeded", seed=0, threads=2, warmup=1, iterations=5, precision="fp32"),
        "samples": ("seed 0",),
        "outputs": (output(),),
        "verdict": Verdict.PASS,
        "sentence": "the output is within relative L2 0.001",
        "latency": LatencyReport(
            iterations=5,
            p50_ms=12.5,
            p50_low_ms=12.4,
            p50_high_ms=12.7,
            p95_ms=13.5,
            p90_ms=13.25,
            p99_ms=14.0,
            mean_ms=12.6,
            min_ms=12.0,
            max_ms=14.1,
            cv=0.05,
            spread=0.1,
            comparable=False,
            remark="the processor is emulated",
        ),
        "load_ms": 30.0,
        "peak_blob_bytes": 2_600_000,
        "answers": (
            AnswerPair(
                sample="cat.png",
                reference_label="tabby",
                reference_probability=0.75,
                device_label="tabby",
                device_probability=0.749,
            ),
        ),
    }
    return ValidationReport(**{**values, **changes})


def picture(seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240)).save(data, "JPEG", quality=80)
    return Picture(data.getvalue(), 320, 240, (0, 40, 320, 240))


def answers(samples, label):
    """Of three samples: boxes, one of them on either side only and one of NaN; a region; classes."""
    box = Box(left=20, top=60, right=120, bottom=200, score=0.9)
    far = Box(left=250, top=100, right=900, bottom=math.nan, score=0.5)
    pairs = (
        BoxPair(label=label, reference=box, device=box.model_copy(update={"left": 24.0, "score": 0.88})),
        BoxPair(label=label, reference=None, device=box.model_copy(update={"right": 5000.0})),
        BoxPair(label=label, reference=far, device=None),
    )
    mask = Mask(width=4, height=2, runs=((0, 3), (1, 2), (2, 3)))
    other = mask.model_copy(update={"runs": ((0, 4), (1, 1), (2, 300))})
    made = [
        {"boxes": pairs, "more_boxes": 3},
        {"mask": MaskPair(reference=mask, device=other, agreement=0.875)},
        {"classes": (ClassPair(label=label, reference=0.75, device=0.7),)},
    ]
    return tuple(
        SampleAnswer(sample=name, width=320, height=320, **each) for name, each in zip(samples, made, strict=False)
    )


def bisection(names=("demo", "prob", "conv", "node"), count=30):
    """Of ``count`` layers: the error begins at the twentieth; one is exact, one not finite, one was not measured."""
    model, out, layer, node = names
    rng = np.random.default_rng(2)
    spread = TensorRange(tensor=out, shape=(1, 8, 4, 4), minimum=-3.0, maximum=4.0, nonfinite=0)
    points = []
    for index in range(count):
        far = float(10 ** rng.normal(-6.5, 0.2)) if index < 20 else float(10 ** rng.normal(-2, 0.3))
        far = 0.0 if index == 3 else math.nan if index == count - 1 else far
        local = None if index % 3 else far
        points.append(Point(blob=f"blob{index}", tensor=f"{layer}{index}", rank=index, accumulated=far, local=local))
    suspect = Suspect(
        tensor=f"{layer}20", blob="blob20", layers=(LayerLine(type="Convolution", name=layer, params={"pad": "1"}),),
        nodes=(node,), operators=("Conv",), accumulated=0.01, local=0.009, inputs=(spread,), expected=spread,
        actual=spread, causes=(f"a bias is missing in {layer}",),
    )  # fmt: skip
    plain = report()
    state = OutputState(name=out, verdict=Verdict.FAIL, reason=layer, relative_l2=0.01)
    return BisectionReport(
        mobilekit_version="0.1.0", model=model, model_sha256="0" * 64, precision="fp32", device=plain.device,
        reference=plain.reference, mode="auto", sample="seed 0", seed=0, verdict=Verdict.FAIL,
        sentence=f"{layer} is wrong", outputs=(state,), stage="layer", confirmed=True, first=suspect, limit=1e-4,
        local_limit=1e-4, runs=5, run_limit=15, exhausted=False, unmapped=(layer,), curve=tuple(points),
    )  # fmt: skip


def profile(names=("demo", "prob", "conv", "node"), count=40):
    model, out, layer, node = names
    layers = tuple(
        LayerProfile(
            name=f"{layer}{index}" if index != 6 else _LONG, type=("Convolution", "ReLU")[index % 2],
            nodes=(f"{node}/block{index // 8}/{out}",),
            mean_ms=0.1 + index % 7, min_ms=0.1, share=1 / count, macs=10**6, moved_bytes=10**5, gflops=3.0,
            gbytes_s=2.0, of_roof=0.4, bound="compute",
        )
        for index in range(count)
    )  # fmt: skip
    total = sum(one.mean_ms for one in layers)
    return ProfileReport(
        mobilekit_version="0.1.0", model=model, precision="fp32", device=report().device, threads=1, iterations=5,
        p50_ms=total * 1.05, layers_ms=total, peak=Peak(gflops=20.0, gbytes_s=9.0), layers=layers,
    )  # fmt: skip


def parity(names=("demo", "logits", "cat.png"), gap=0.2, error=1e-6, changed=1):
    """Two pictures, prepared in two ways; the output moves by ``gap``, and by ``error`` on the device."""
    model, out, sample = names
    apart = PixelDifference(
        max_levels=50.0, mean_levels=2.5, relative_l2=0.08, channel="R", row=7, column=3, first_level=10.0,
        second_level=60.0,
    )  # fmt: skip
    effect = Effect(output=out, median=gap, largest=2 * gap, worst_sample=sample)
    own = Effect(output=out, median=error, largest=error, worst_sample=sample)
    cause = CauseReport(
        deviations=("BGR for RGB",), known=True, explained=0.99, levels=9.0, left_levels=0.1,
        text="most likely cause of the pixels' difference: BGR for RGB",
    )  # fmt: skip
    pair = PairReport(
        first="pillow", second="ncnn", max_levels=50.0, mean_levels=2.5, relative_l2=0.08, worst_sample=sample,
        worst=apart, effects=(effect,), agreement={"top1": 0.5}, changed={"top1": changed}, cause=cause,
        samples=tuple(
            SamplePair(
                sample=name, width=640, height=480, difference=apart, effects={out: gap}, agreement={"top1": 1.0}
            )
            for name in (sample, "dog.png")
        ),
    )  # fmt: skip
    larger, told = sentence(pair, (own,), {"top1": 0}, 2)
    return ParityReport(
        mobilekit_version="0.1.0", model=model, model_sha256="0" * 64, device=report().device,
        reference=report().reference, precision="fp32", input="x", preprocess="RGB NCHW 1x3x8x8, stretch", samples=2,
        pairs=(pair,), subject=("pillow", "ncnn"), model_effects=(own,), model_agreement={"top1": 1.0},
        model_changed={"top1": 0}, larger=larger, sentence=told,
    )  # fmt: skip


def large(count: int, names: tuple[str, ...] = ()) -> Subject:
    """``count`` samples, two outputs and 500 timed runs; ``names`` for the model, its outputs, samples and labels."""
    rng = np.random.default_rng(1)
    first, second, third, fourth = names or ("demo", "prob", "boxes", "cat.png")
    samples = [fourth, *(f"{index:04}.png" for index in range(1, count))]
    errors = [
        SampleErrors(
            name=name,
            verdict=Verdict.PASS,
            relative_l2={second: float(10 ** rng.normal(-6, 0.4)), third: float(10 ** rng.normal(-5, 0.4))},
        )
        for name in samples
    ]
    times = [float(value) for value in rng.gamma(9, 1.4, 500).round(5)]
    rungs = [
        RungReport(name="onnxruntime", title="ONNX Runtime"),
        *(
            RungReport(
                name=name,
                title=f"{name} {first}",
                outputs=(RungOutput(name=second, relative_l2=far, step=far, rtol=1e-5, verdict=said, reason=third),),
                verdict=said,
            )
            for name, far, said in (("legalised", 1e-7, Verdict.PASS), ("device CPU", 1e-3, Verdict.FAIL))
        ),
        RungReport(name="device GPU", title="Vulkan", omitted=fourth),
    ]
    made = report(
        ladder=LadderReport(
            first="onnxruntime", samples=(fourth,), rungs=tuple(rungs), lost_at="device CPU", sentence=f"{first} did it"
        ),
        instructions=InstructionReport(
            total=101_119_862,
            cpu=first,
            paths=(
                IsaPath(name="NEON", offered=True, instructions=79_848_140),
                IsaPath(name=second, offered=True, instructions=4_000_000),
                IsaPath(name=third, offered=True, instructions=0),
                IsaPath(name="SVE", offered=False, instructions=0),
            ),
        ),
        sustained=SustainedReport(
            asked_s=600,
            seconds=600.5,
            inferences=60_000,
            stretches=tuple(
                StretchReport(
                    start_s=60.0 * minute,
                    inferences=6000,
                    p50_ms=10 + minute / 4,
                    p90_ms=11 + minute / 4,
                    temperature_celsius=38 + 2.5 * minute,
                    frequency_khz=15e6 - minute * 4e5,
                )
                for minute in range(10)
            ),
            throttled=True,
            sentence=f"throttled: {first}",
            error=fourth,
        ),
        single_stream=SingleStreamReport(
            queries=1024, seconds=60, p50_ms=10, p90_ms=11, p99_ms=19, compliant=False, remark=second
        ),
        model=first,
        command=("mobilekit", "validate", f"build/{first}", "--device"),
        outputs=(output(second, reason=first), output(third, shape=(1, 8400, 84))),
        samples=tuple(samples),
        sample_errors=tuple(errors),
        latency=report().latency.model_copy(update={"values_ms": tuple(times), "remark": first}),
        answers=tuple(
            AnswerPair(
                sample=name,
                reference_label=third,
                reference_probability=0.75,
                device_label=second,
                device_probability=0.749,
            )
            for name in samples[:3]
        ),
    )
    worst = worst_samples(errors)
    pictures = {one.name: picture(index) for index, one in enumerate(worst[: 2 if count < 100 else 12])}
    made = made.model_copy(update={"shown": answers([one.name for one in worst], third)})
    parts = (first, second, third, fourth)
    return Subject(made, pictures, [("before", made)], bisection(parts), profile(parts))


def subject(names: tuple[str, ...] = ()) -> Subject:
    return large(20, names)
