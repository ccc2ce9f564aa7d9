"""The model zoo: models by name. An entry is a TOML file in ``model_zoo/``; its bytes are fetched when wanted.

A zoo id works wherever a model path does, through :func:`resolve`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from mobilekit.errors import UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.zoo.entry import ZooEntry, entry_ids, load_entry

__all__ = ["ResolvedModel", "ZooEntry", "find_entry", "list_entries", "resolve"]


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is on this machine: ``id`` is the zoo id or the file's stem; ``labels`` a file, one class a line."""

    id: str
    path: Path
    entry: ZooEntry | None = None
    labels: Path | None = None


def list_entries() -> tuple[ZooEntry, ...]:
    """Every entry, by id."""
    return tuple(find_entry(id_) for id_ in entry_ids())


def find_entry(id_: str) -> ZooEntry:
    """The entry called ``id_``; :class:`UsageError` with the closest ids where there is none."""
    entry = load_entry(id_)
    if entry is None:
        raise UsageError(f"there is no zoo model {id_!r}", hint=_suggest(id_))
    return entry


def resolve(ref: str, progress: Progress = SILENT) -> ResolvedModel:
    """A path or a zoo id as a model on this machine; a zoo model is fetched where it is not cached.

    An existing file wins over a zoo id. Raises :class:`UsageError` where ``ref`` is neither,
    :class:`~mobilekit.errors.FetchError` where the model cannot be had.
    """
    path = Path(ref)
    if path.is_file():
        return ResolvedModel(path.stem, path)
    if path.is_dir() and load_entry(ref) is None:
        raise UsageError(f"{ref} is a folder, not a model file", hint="give the .onnx file in it")
    if load_entry(ref) is None:
        raise UsageError(f"there is no file and no zoo model {ref!r}", hint=_suggest(ref))
    from mobilekit.zoo.fetch import fetch

    return fetch(ref, progress)


def _suggest(ref: str) -> str:
    near = difflib.get_close_matches(ref.lower(), entry_ids(), n=3, cutoff=0.5)
    known = "`mobilekit zoo list` shows all models"
    return f"did you mean {' or '.join(near)}? {known}" if near else known
