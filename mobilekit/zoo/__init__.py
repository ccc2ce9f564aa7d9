"""The model zoo: models by name. An entry is a TOML file in ``model_zoo/``; its bytes are fetched when wanted.

A zoo id works wherever a model path does, through :func:`resolve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import UsageError
from mobilekit.paths import data_dir
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.zoo.entry import FileSource, Labels, PypiSource, UrlSource, ZooEntry

__all__ = [
    "FileSource",
    "Labels",
    "PypiSource",
    "ResolvedModel",
    "UrlSource",
    "ZooEntry",
    "cached",
    "demo_picture",
    "fetch",
    "fetch_all",
    "find_entry",
    "list_entries",
    "resolve",
]

_FROM_ENTRY = frozenset({"FileSource", "Labels", "PypiSource", "UrlSource", "ZooEntry"})


def __getattr__(name: str) -> Any:
    """The classes of an entry: imported when asked for, since a model that is a plain file needs none of them."""
    if name in _FROM_ENTRY:
        from mobilekit.zoo import entry

        return getattr(entry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is on this machine.

    ``id`` is the zoo id or the file's stem; ``entry`` is ``None`` for a plain file; ``labels`` holds one class
    a line.
    """

    id: str
    path: Path
    entry: ZooEntry | None = None
    labels: Path | None = None

    def class_names(self) -> tuple[str, ...]:
        """Class names by index; empty where none are known."""
        if self.labels is None:
            return ()
        return tuple(self.labels.read_text(encoding="utf-8").splitlines())


def list_entries() -> tuple[ZooEntry, ...]:
    """Every entry, by id: those of the folder ``$MOBILEKIT_ZOO`` and those that ship with mobilekit."""
    from mobilekit.zoo.entry import entry_ids

    return tuple(find_entry(id_) for id_ in entry_ids())


def find_entry(id_: str) -> ZooEntry:
    """The entry called ``id_``; :class:`UsageError` with the closest ids where there is none."""
    from mobilekit.zoo.entry import load_entry

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
    from mobilekit.zoo.entry import load_entry

    if load_entry(ref) is not None:
        return fetch(ref, progress)
    if path.is_dir():
        raise UsageError(f"{ref} is a folder, not a model file", hint="give the .onnx file in it")
    raise UsageError(f"there is no file and no zoo model {ref!r}", hint=_suggest(ref))


def fetch(id_: str, progress: Progress = SILENT, *, folder: Path | None = None) -> ResolvedModel:
    """One model of the zoo; see :func:`fetch_all`."""
    return fetch_all([id_], progress, folder=folder)[0]


def fetch_all(
    ids: Sequence[str], progress: Progress = SILENT, *, folder: Path | None = None
) -> tuple[ResolvedModel, ...]:
    """Models of the zoo, from the cache (no network) or from their sources; copied to ``folder`` where one is given.

    Every id is looked up before anything is fetched. Raises :class:`UsageError` for an unknown id, and
    :class:`~mobilekit.errors.FetchError`, :class:`~mobilekit.errors.StorageError` or
    :class:`~mobilekit.errors.MissingExtraError` where a model cannot be had.
    """
    from mobilekit.zoo import store

    entries = tuple(find_entry(id_) for id_ in ids)
    found = store.obtain(entries, progress)
    if folder is not None:
        found = tuple(store.copy_to(entry.id, model, folder) for entry, model in zip(entries, found, strict=True))
    return tuple(ResolvedModel(e.id, m.path, e, m.labels) for e, m in zip(entries, found, strict=True))


def cached(entry: ZooEntry) -> Path | None:
    """Where the cache holds ``entry``'s model, whole; ``None`` where fetching it needs its source."""
    from mobilekit.zoo import store

    kept = store.lookup(entry)
    return kept.path if kept else None


def demo_picture() -> Path:
    """A page of text, turned 90 degrees clockwise: the picture that ``pp_lcnet_orientation`` is shown in the demo."""
    return data_dir("model_zoo") / "demo" / "page.png"


def _suggest(ref: str) -> str:
    import difflib

    from mobilekit.zoo.entry import entry_ids

    near = difflib.get_close_matches(ref.lower(), entry_ids(), n=3, cutoff=0.5)
    known = "`mobilekit zoo list` shows all models"
    return f"did you mean {' or '.join(near)}? {known}" if near else known
