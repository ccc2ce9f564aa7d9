"""The commands: ``stage`` collects the models, ``run`` checks them, ``peer`` times one of ONNX Runtime's providers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gpucheck.check import Check
from gpucheck.models import MODELS, stage, staged_models
from gpucheck.peers import peer
from gpucheck.rows import PRECISIONS, table

HERE = Path(__file__).parents[2]
"""Where wheels, models and results are, once all is staged."""


def run(arguments: argparse.Namespace) -> int:
    check = Check(
        arguments.output,
        arguments.models or staged_models(HERE),
        arguments.precisions,
        flavour=arguments.flavour,
        level=arguments.opt_level,
        budget_s=arguments.budget,
        resume=arguments.resume,
        rehearse=arguments.rehearse,
    )
    print(", ".join(f"{name} {version}" for name, version in check.facts["versions"].items() if version),
          file=sys.stderr)  # fmt: skip
    if check.remark:
        print(f"{check.remark}; it is tried all the same", file=sys.stderr)
    todo = check.pending()
    while todo and check.in_time():
        check.do(*todo.pop(0))
    check.write()
    rows = check.ordered()
    print(table(rows))
    print(check.file, file=sys.stderr)
    left = [key for key in check.wanted if key not in check.rows]
    if left:
        print(f"{len(left)} of {len(check.wanted)} are left: run it again with --resume", file=sys.stderr)
    states = {row.state for row in rows}
    if check.obstacle:
        print(f"error: {check.obstacle}\nhint: the plans were built and what they are built from verified; none was "
              "executed", file=sys.stderr)  # fmt: skip
    if "failed" in states or "fail" in states:
        return 4 if check.obstacle and "fail" not in states else 1
    if check.obstacle:
        return 4
    return 3 if "inconclusive" in states or left or arguments.rehearse else 0


def _seconds(text: str) -> float:
    """``540``, ``540s``, ``9m``."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m") else (text, "s")
    try:
        seconds = float(number) * (60 if unit == "m" else 1)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 540s, 9m")
    return seconds


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(part for part in text.split(",") if part)
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu_check", description="Public models as TensorRT plans on this machine's GPU"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    staging = commands.add_parser("stage", help="collect the models")
    staging.add_argument("folder", type=Path)
    staging.add_argument("--models", type=_names(MODELS), default=MODELS)
    checking = commands.add_parser("run", help="build, run and compare")
    checking.add_argument("--models", "--only", type=_names(MODELS), default=(), help="default: all that were staged")
    checking.add_argument("--precisions", type=_names(PRECISIONS), default=PRECISIONS)
    checking.add_argument("--flavour", choices=("rtx", "full"), help="default: rtx where it serves the GPU, else full")
    checking.add_argument("--opt-level", type=int, choices=range(6), help="TensorRT's own; a low one builds faster")
    checking.add_argument("--resume", action="store_true", help="keep the rows of an earlier run and go on behind them")
    checking.add_argument("--budget", type=_seconds, help="9m, 540s: begin no row that would not end in that time")
    checking.add_argument(
        "--rehearse", action="store_true", help="ONNX Runtime runs what the plans are built from: no GPU, no proof"
    )
    checking.add_argument("-o", "--output", type=Path, default=HERE / "results")
    peering = commands.add_parser("peer", help="time ONNX Runtime with one provider")
    peering.add_argument("bundle", type=Path)
    peering.add_argument("provider")
    arguments = parser.parse_args(argv)
    from mobilekit.errors import MobilekitError

    try:
        if arguments.command == "stage":
            return stage(arguments.folder, arguments.models)
        return peer(arguments.bundle, arguments.provider) if arguments.command == "peer" else run(arguments)
    except MobilekitError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
