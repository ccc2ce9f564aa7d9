"""``mobilekit zoo``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mobilekit.zoo import ZooEntry

__all__ = ["register"]

zoo = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@zoo.callback()
def _zoo() -> None:
    """Models by name: what there is, where it comes from, fetch it.

    A zoo id works wherever a model's path does: mobilekit export mobilenet_v2 -o build/mobilenet.

    \b
    mobilekit zoo list
    mobilekit zoo info pp_lcnet_orientation
    mobilekit zoo fetch pp_lcnet_orientation -o models
    """


@zoo.command("list")
def list_(json_: Annotated[bool, typer.Option("--json", help="Print the entries as JSON.")] = False) -> None:
    """List the models of the zoo.

    \b
    mobilekit zoo list
    mobilekit zoo list --json
    """
    from mobilekit.cli._common import print_json
    from mobilekit.zoo import list_entries

    entries = list_entries()
    if json_:
        print_json([_facts(entry) for entry in entries])
        return
    rows = [("id", "task", "MB", "licence", "here", "what")]
    for entry in entries:
        size = f"{entry.size_bytes / 1e6:.1f}" if entry.size_bytes else ""
        here = "yes" if _facts(entry)["cached"] else ""
        rows.append((entry.id, entry.task, size, entry.license, here, entry.title))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [
            cell.rjust(w) if i == 2 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=False))
        ]
        typer.echo("  ".join([*cells, row[5]]))


@zoo.command()
def info(
    id_: Annotated[str, typer.Argument(metavar="ID")],
    json_: Annotated[bool, typer.Option("--json", help="Print the entry as JSON.")] = False,
) -> None:
    """Show one model: licence, source, inputs, preprocessing, and whether it is here.

    \b
    mobilekit zoo info mobilenet_v2
    mobilekit zoo info mobilenet_v2 --json
    """
    from mobilekit.cli._common import print_json
    from mobilekit.zoo import find_entry

    facts = _facts(find_entry(id_))
    if json_:
        print_json(facts)
        return
    source = facts["source"]
    if "pypi" in source:
        source = f"{source['member']}\nin {source['archive']} of {source['pypi']} {source['version']}"
    else:
        source = source.get("url") or source["file"]
    licence = " ".join(filter(None, (facts["license"], facts["license_note"] and f"({facts['license_note']})")))
    prepared = "" if facts["prepare"] == "none" else f"by {facts['prepare']}, with the extra [torch]"
    lines = {
        "title": facts["title"],
        "task": facts["task"],
        "licence": licence,
        "source": source,
        "origin": facts["origin"],
        "size": f"{facts['size_bytes'] / 1e6:.1f} MB" if facts["size_bytes"] else "",
        "sha256": facts["sha256"] or "",
        "prepared": prepared,
        "inputs": "\n".join(f"{name}:{'x'.join(map(str, s)) or 'scalar'}" for name, s in facts["inputs"].items()),
        "preprocess": "\n".join(f"{k} = {v}" for k, v in (facts["preprocess"] or {}).items() if v is not None),
        "labels": _labels(facts["labels"]),
        "cached": facts["cached"] or "no",
    }
    typer.echo(facts["id"])
    for name, text in lines.items():
        for index, line in enumerate(text.splitlines()):
            typer.echo(f"  {name if index == 0 else '':<11} {line}")


@zoo.command()
def fetch(
    ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also copy the models to this folder.")] = None,
) -> None:
    """Fetch models into the cache and print their paths; what is there already is not fetched again.

    \b
    mobilekit zoo fetch pp_lcnet_orientation
    mobilekit zoo fetch pp_ocr_cls pp_ocrv6_det -o models
    """
    from mobilekit.cli._common import terminal_progress
    from mobilekit.zoo import fetch_all

    with terminal_progress() as progress:
        models = fetch_all(ids, progress, folder=output)
        for model in models:
            if model.entry is not None:
                note = f" ({model.entry.license_note})" if model.entry.license_note else ""
                progress.note(f"{model.id}: licence {model.entry.license}{note}")
    for model in models:
        typer.echo(model.path)


def _facts(entry: ZooEntry) -> dict[str, Any]:
    """The entry as plain values, and the path of its model where the cache holds it."""
    from mobilekit.zoo import cached

    path = cached(entry)
    return {**entry.model_dump(mode="json"), "cached": None if path is None else str(path)}


def _labels(spec: dict[str, Any] | None) -> str:
    if spec is None:
        return ""
    source = spec["source"] or {}
    where = spec["file"] or source.get("member") or source["url"]
    return f"{where}{' of ' + source['pypi'] if 'pypi' in source else ''}"


def register(app: typer.Typer) -> None:
    app.add_typer(zoo, name="zoo")
