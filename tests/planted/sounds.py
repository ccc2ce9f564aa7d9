"""More faults: of what turns sound into features, and of operators that the other models do not have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.planted.edit import Editor
from tests.planted.faults import Planted, fault
from tests.planted.subtle import FAULTS

__all__ = ["FAULTS"]

WHISPER, SPEAKER, NEMO = "asr_whisper80", "asr_wespeaker", "asr_nemo80"
PROPOSALS, PUZZLES, SPINDLES, CUT = "mtcnn_pnet", "yolox_ddddocr", "eeg_spindles", "attacut_c"
WAKE = "wakeword_melspectrogram"


def _constant(editor: Editor, operation: str, right: float, wrong: float) -> Planted:
    """The arithmetic with the number ``right`` gets ``wrong``."""
    layer = editor.find(
        "BinaryOp", 0, lambda layer: layer.param(0) == operation and abs(float(layer.param(2) or 0) - right) < 1e-3
    )
    editor.set(layer, b=wrong)
    return Planted((layer.name,))


@fault("logarithm to base e for base 10", WHISPER)
def _(editor: Editor) -> Planted:
    return _constant(editor, "3", 2.3025851, 1.0)


@fault("pre-emphasis 0.95 for 0.97", NEMO, SPEAKER)
def _(editor: Editor) -> Planted:
    return _constant(editor, "2", 0.97, 0.95)


@fault("a logarithm's floor of 1e-6 for 1.2e-7", SPEAKER)
def _(editor: Editor) -> Planted:
    """Only a stretch of silence is as quiet."""
    layer = editor.find("Clip", 0, lambda layer: abs(float(layer.param(0) or 0) - 1.1920929e-7) < 1e-9)
    editor.set(layer, min=1e-6)
    return Planted((layer.name,))


@fault("what a logarithm's argument is raised by 1e-6 for 6e-8", NEMO)
def _(editor: Editor) -> Planted:
    layer = editor.find("BinaryOp", 0, lambda layer: layer.param(0) is None and 0 < float(layer.param(2) or 0) < 1e-7)
    editor.set(layer, b=1e-6)
    return Planted((layer.name,))


@fault("a range of 70 decibels for 80", WAKE)
def _(editor: Editor) -> Planted:
    return _constant(editor, "1", 80.0, 70.0)


@fault("magnitudes for powers", SPEAKER)
def _(editor: Editor) -> Planted:
    layer = editor.find("Reduction", 0, lambda layer: layer.param(0) == "2")
    editor.set(layer, operation=8)
    return Planted((layer.name,))


@fault("slopes moved by one channel", PROPOSALS)
def _(editor: Editor) -> Planted:
    layer = editor.find("PReLU", 1)
    editor.weight(layer, 0, lambda slopes: np.roll(slopes, 1), tagged=False)
    return Planted((layer.name,))


@fault("space to depth in the other order", PUZZLES)
def _(editor: Editor) -> Planted:
    layer = editor.find("Reorg")
    editor.set(layer, mode=0)
    return Planted((layer.name,))


@fault("a pooling window of 11 for 13", PUZZLES)
def _(editor: Editor) -> Planted:
    layer = editor.find("Pooling", 2)
    editor.set(layer, kernel_w=11, kernel_h=11, pad_left=5, pad_top=5, pad_right=5, pad_bottom=5)
    return Planted((layer.name,))


@fault("GELU for SiLU", SPINDLES)
def _(editor: Editor) -> Planted:
    layer = editor.find("Swish")
    editor.put(layer, replace(layer, type="GELU", params=()))
    return Planted((layer.name,))


@fault("mean for maximum over time", CUT)
def _(editor: Editor) -> Planted:
    layer = editor.find("Reduction")
    editor.set(layer, operation=3)
    return Planted((layer.name,))
