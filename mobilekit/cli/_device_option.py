"""``--device`` of the commands that run a bundle somewhere."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["DeviceMayStandAlone"]


class DeviceMayStandAlone(TyperCommand):
    """``--device`` without a value means the one connected, as leaving it out does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], "-"]
        kept = [a for a, after in zip(args, following, strict=True) if a != "--device" or not after.startswith("-")]
        return super().parse_args(ctx, kept)
