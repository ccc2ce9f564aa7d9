"""Commands whose values are taken as the shell gives them, where that is all there is to do.

From 0.29 on typer has pydantic take every value: importing that, and making a validator for each option, takes longer
than all else before a command begins. What is left out, text, a path, and a default that has its type already need
none; all others are still typer's to take, and to refuse.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

__all__ = ["PlainCommand", "PlainGroup", "take_plainly"]


class PlainCommand(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _spared(super().get_params(ctx))


class PlainGroup(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _spared(super().get_params(ctx))


def _spared(params: list[Any]) -> list[Any]:
    for param in params:
        by_typer = getattr(param, "get_runtime_param", None)  # before 0.29 there is nothing to spare
        if by_typer is not None and "get_runtime_param" not in vars(param):
            param.get_runtime_param = partial(_Taken, by_typer)
    return params


class _Taken:
    """What typer asks for a parameter's value. ``by_typer``: gives that of its own, made when it is called."""

    def __init__(self, by_typer: Any) -> None:
        self._by_typer = by_typer

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        kind, about = param.type_descriptor.annotation, param.type_descriptor.parameter_info
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if type(value) is kind and not (about.parser and kind is str):  # a text, or a default
            return value
        if kind == list[str] and not about.parser and all(type(item) is str for item in value):
            return list(value)
        if kind is Path and not several and _is_any_path(value, about):
            return Path(value)
        return self._by_typer().coerce(value, param=param, ctx=ctx)


def _is_any_path(value: Any, about: Any) -> bool:
    """Whether nothing is asked of this path that it could fail, nor is it to be changed."""
    if about.parser or about.exists or about.writable or about.resolve_path or about.allow_dash or about.path_type:
        return False
    return bool(about.file_okay and about.dir_okay) and (os.access(value, os.R_OK) or not os.path.lexists(value))


def take_plainly(app: typer.Typer) -> None:
    """Have every command of ``app`` that has no class of its own take its values so."""
    for info in _commands(app):
        if info.cls is TyperCommand:
            info.cls = PlainCommand


def _commands(app: typer.Typer) -> Iterator[CommandInfo]:
    yield from app.registered_commands
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance)
