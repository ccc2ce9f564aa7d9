"""A drawing of a TensorRT plan: its layers, the ONNX nodes fused into each, and the tensors between them.

``layers`` everywhere are those of the bundle's ``layers.json`` (see :mod:`mobilekit.targets.tensorrt.layers`), in the
order in which the plan runs them. The layout is Sugiyama's: layers stand in ranks below what they read (the longest
path decides), long edges pass through every rank between, and neighbours are sorted by the mean place of what they are
connected with. Everything is escaped; the result asks for nothing from anywhere.
"""

from __future__ import annotations

import html as _html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilekit.errors import BundleError

__all__ = ["KEY", "dot", "html", "summary", "svg"]

KEY = (
    "Blue computes in float32, green in 16 bits, orange in 8; a layer lists the ONNX nodes fused into it, an edge the "
    "type and shape of its tensor."
)

_WIDTH, _LINE, _PAD, _GAP_X, _GAP_Y = 250.0, 14.0, 8.0, 26.0, 44.0
_MOST_NODES = 7
_MOST_TEXT = 38
_MOST_BENDS = 20_000
"""Places where long edges pass a rank; edges beyond that are drawn straight."""
_SWEEPS = 6

_TYPES = {"float": "f32", "half": "f16", "bfloat16": "bf16", "int8": "i8", "fp8": "f8", "int32": "int", "int64": "int"}
_STYLE = """
.fg{font:11px system-ui,sans-serif;background:#fff}
.fg text{fill:#1c1e21;font:inherit}.fg .quiet{fill:#667085}.fg .bold{font-weight:600}
.fg rect{stroke-width:1;fill:#f2f4f7;stroke:#98a2b3}
.fg .f32 rect{fill:#e8f1ff;stroke:#4b83d8}.fg .f16 rect{fill:#e6f6ec;stroke:#3d9a5f}
.fg .bf16 rect{fill:#eef7dd;stroke:#7a9a2d}.fg .i8 rect,.fg .f8 rect{fill:#fdf0e1;stroke:#d0812b}
.fg .end rect{fill:#fff;stroke-dasharray:4 3}
.fg path{fill:none;stroke:#98a2b3}.fg .tip{fill:#98a2b3;stroke:none}
@media (prefers-color-scheme:dark){
.fg{background:#14161a}.fg text{fill:#e6e8ec}.fg .quiet{fill:#98a2b3}
.fg rect{fill:#23262d;stroke:#667085}
.fg .f32 rect{fill:#172a45;stroke:#5c93e6}.fg .f16 rect{fill:#15301f;stroke:#4fb676}
.fg .bf16 rect{fill:#27300f;stroke:#97b94a}.fg .i8 rect,.fg .f8 rect{fill:#3a2812;stroke:#e0984a}
.fg .end rect{fill:#14161a}.fg path{stroke:#667085}.fg .tip{fill:#667085}}
"""


@dataclass(slots=True)
class _Box:
    """A layer, an input or an output of the plan (``end``), or a bend of a long edge (no ``title``)."""

    title: str = ""
    lines: tuple[str, ...] = ()
    whole: str = ""
    kind: str = ""
    label: str = ""
    rank: int = 0
    x: float = 0.0
    before: list[_Box] = field(default_factory=list)
    after: list[_Box] = field(default_factory=list)

    @property
    def width(self) -> float:
        return _WIDTH if self.title else 0.0

    @property
    def height(self) -> float:
        return _LINE * (1 + len(self.lines)) + 2 * _PAD if self.title else 0.0


def svg(layers: Sequence[Mapping[str, Any]]) -> str:
    """The drawing as one ``<svg>`` element: it stands alone and may be put into a page. Dark where the reader's is.

    Raises :class:`BundleError` where ``layers`` are not what ``layers.json`` holds.
    """
    boxes, silent, told = _graph(layers)
    ranks = _ranked(boxes)
    _arrange(ranks)
    tops = _tops(ranks)
    wide = max((box.x + box.width for rank in ranks for box in rank), default=0.0)
    high = tops[-1] if tops else 0.0
    note = f"{silent} layers that only wait or signal are not drawn" if silent else ""
    margin = 20.0
    size = (wide + 2 * margin, high + 2 * margin + (_LINE if note else 0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fg" width="{size[0]:.0f}" height="{size[1]:.0f}" '
        # A page may fit drawings to its width: this one scrolls.
        f'style="width:{size[0]:.0f}px;height:{size[1]:.0f}px;max-width:none;max-height:none" '
        f'viewBox="{-margin:.0f} {-margin:.0f} {size[0]:.0f} {size[1]:.0f}" role="img">',
        f"<title>{_escape(told)}</title><style>{_STYLE}</style>",
    ]
    parts += [_edge(box, to, tops) for rank in ranks for box in rank for to in box.after]
    parts += [_drawn(box, tops[box.rank]) for rank in ranks for box in rank if box.title]
    if note:
        parts.append(f'<text class="quiet" x="0" y="{high + _LINE:.0f}">{note}</text>')
    return "".join([*parts, "</svg>"])


def html(layers: Sequence[Mapping[str, Any]], title: str) -> str:
    """A page that holds the drawing, and loads nothing."""
    drawing = svg(layers)
    rules = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{rules}">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{_escape(title)}</title><style>body{{margin:1rem;font:14px system-ui,sans-serif}}"
        "@media (prefers-color-scheme:dark){body{background:#14161a;color:#e6e8ec}}main{overflow:auto}</style></head>"
        f"<body><h1>{_escape(title)}</h1><p>{_escape(summary(layers))}. {KEY}</p>"
        f"<main>{drawing}</main></body></html>\n"
    )


def dot(layers: Sequence[Mapping[str, Any]]) -> str:
    """The same for Graphviz."""
    boxes, _, _ = _graph(layers)
    names = {id(box): f"n{index}" for index, box in enumerate(boxes)}
    lines = ["digraph plan {", '  node [shape=box, fontname="sans-serif"];']
    for box in boxes:
        text = "\\n".join(_quoted(line) for line in (box.title, *box.lines))
        dashed = ", style=dashed" if box.kind == "end" else ""
        lines.append(f'  {names[id(box)]} [label="{text}"{dashed}];')
    for box in boxes:
        for to in box.after:
            lines.append(f'  {names[id(box)]} -> {names[id(to)]} [label="{_quoted(box.label)}"];')
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace('"', '\\"')


def _escape(text: str) -> str:
    return _html.escape(_printable(text), quote=True)


def _printable(text: str) -> str:
    """XML knows no control characters and no halves of surrogate pairs."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def summary(layers: Sequence[Mapping[str, Any]]) -> str:
    """``55 layers of 105 ONNX nodes, 40 of them fused from several``; ``layers`` that :func:`svg` draws."""
    fused = sum(len(layer["onnx_nodes"]) > 1 for layer in layers)
    nodes = len({node for layer in layers for node in layer["onnx_nodes"]})
    return f"{len(layers)} layers of {nodes} ONNX nodes, {fused} of them fused from several"


# From layers to boxes ------------------------------------------------------------------------------------------------


def _graph(layers: Sequence[Mapping[str, Any]]) -> tuple[list[_Box], int, str]:
    """A box for each layer that moves a tensor and for the plan's inputs and outputs, connected; how many layers move
    none; and all of it in a sentence."""
    try:
        return *_connected(layers), summary(layers)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(
            f"the layers of the plan cannot be drawn: {type(error).__name__}: {error}", hint="export the model again"
        ) from error


def _connected(layers: Sequence[Mapping[str, Any]]) -> tuple[list[_Box], int]:
    boxes: list[_Box] = []
    made: dict[str, _Box] = {}
    read: set[str] = set()
    last: dict[str, Mapping[str, Any]] = {}
    silent = 0
    for layer in layers:
        if not layer["inputs"] and not layer["outputs"]:
            silent += 1
            continue
        box = _layer(layer)
        sources = {}
        for tensor in layer["inputs"]:
            name = tensor["name"]
            read.add(name)
            if name not in made:
                made[name] = given = _Box(_short(name), ("input",), name, "end", _typed(tensor))
                boxes.append(given)
            sources[id(made[name])] = made[name]
        for source in sources.values():
            source.after.append(box)
            box.before.append(source)
        boxes.append(box)
        for tensor in layer["outputs"]:
            made[tensor["name"]] = box
            last[tensor["name"]] = tensor
    for name in last:
        if name not in read and not name.startswith("__"):  # the compiler's own names are results that nobody takes
            end = _Box(_short(name), ("output",), name, "end")
            end.before.append(made[name])
            made[name].after.append(end)
            boxes.append(end)
    return boxes, silent


def _layer(layer: Mapping[str, Any]) -> _Box:
    nodes = [str(node) for node in layer["onnx_nodes"]]
    lines = [_short(node) for node in nodes[:_MOST_NODES]]
    if len(nodes) > _MOST_NODES:
        lines[-1:] = [f"and {len(nodes) - _MOST_NODES + 1} more"]
    first = layer["outputs"][0] if layer["outputs"] else layer["inputs"][0]
    label = ", ".join(_typed(tensor) for tensor in layer["outputs"][:2]) + (", ..." if layer["outputs"][2:] else "")
    whole = "\n".join([f"{layer['name']} ({layer['kind']})", *nodes])
    kind = _TYPES.get(str(first["dtype"]).lower(), "")
    return _Box(_short(str(layer["kind"]) or str(layer["name"])), tuple(lines), whole, kind, label)


def _typed(tensor: Mapping[str, Any]) -> str:
    shape = "x".join(str(int(axis)) for axis in tensor["shape"])
    return f"{tensor['dtype']} {shape}".strip()


def _short(text: str) -> str:
    """The end of a long name says more than its beginning."""
    return text if len(text) <= _MOST_TEXT else f"…{text[1 - _MOST_TEXT :]}"


# Layout --------------------------------------------------------------------------------------------------------------


def _ranked(boxes: Sequence[_Box]) -> list[list[_Box]]:
    """Boxes by rank; edges over several ranks are cut up by bends. Boxes come after what they read."""
    for box in boxes:
        box.rank = 1 + max((source.rank for source in box.before), default=-1)
    for box in boxes:
        if not box.before and box.after:  # an input that is read late stands where it is read
            box.rank = min(to.rank for to in box.after) - 1
    ranks: list[list[_Box]] = [[] for _ in range(1 + max((box.rank for box in boxes), default=-1))]
    for box in boxes:
        ranks[box.rank].append(box)
    bends = 0
    for box in boxes:
        for place, to in enumerate(box.after):
            if to.rank - box.rank < 2 or bends > _MOST_BENDS:
                continue
            previous = box
            for rank in range(box.rank + 1, to.rank):
                bend = _Box(rank=rank)
                bend.before.append(previous)
                if previous is box:
                    box.after[place] = bend
                else:
                    previous.after.append(bend)
                ranks[rank].append(bend)
                previous = bend
                bends += 1
            previous.after.append(to)
            to.before[to.before.index(box)] = previous
    return ranks


def _arrange(ranks: Sequence[list[_Box]]) -> None:
    """Give every box its ``x``: sorted by the mean centre of its neighbours, moved as near to it as there is room."""
    for rank in ranks:
        _pack(rank)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for rank in ranks if down else reversed(ranks):
            wanted = {id(box): _centre(box.before if down else box.after, box) for box in rank}
            rank.sort(key=lambda box: wanted[id(box)])
            _place(rank, wanted)
    left = min((box.x for rank in ranks for box in rank), default=0.0)
    for rank in ranks:
        for box in rank:
            box.x -= left


def _pack(rank: Iterable[_Box]) -> None:
    x = 0.0
    for box in rank:
        box.x = x
        x += box.width + _GAP_X


def _centre(neighbours: Sequence[_Box], box: _Box) -> float:
    if not neighbours:
        return box.x + box.width / 2
    return sum(other.x + other.width / 2 for other in neighbours) / len(neighbours)


def _place(rank: Sequence[_Box], wanted: Mapping[int, float]) -> None:
    """From left to right as far left as wished, then from right to left: in between is the mean of both."""
    lows: list[float] = []
    at = float("-inf")
    for box in rank:
        at = max(at, wanted[id(box)] - box.width / 2)
        lows.append(at)
        at += box.width + _GAP_X
    at = float("inf")
    for index in range(len(rank) - 1, -1, -1):
        box = rank[index]
        at = min(at, wanted[id(box)] + box.width / 2)
        box.x = (lows[index] + at - box.width) / 2
        at -= box.width + _GAP_X


def _tops(ranks: Sequence[Sequence[_Box]]) -> list[float]:
    """The upper edge of each rank, and the lower one of the last."""
    tops = [0.0]
    for rank in ranks:
        tops.append(tops[-1] + max(box.height for box in rank) + _GAP_Y)
    return [*tops[:-1], tops[-1] - _GAP_Y] if ranks else []


# Drawing -------------------------------------------------------------------------------------------------------------


def _drawn(box: _Box, top: float) -> str:
    x, middle = box.x, box.x + box.width / 2
    parts = [f'<g class="{box.kind}"><title>{"&#10;".join(_escape(line) for line in box.whole.split(chr(10)))}</title>']
    parts.append(f'<rect x="{x:.1f}" y="{top:.1f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="6"/>')
    for index, line in enumerate((box.title, *box.lines)):
        y = top + _PAD + _LINE * index + 10
        role = "bold" if index == 0 else "quiet"
        parts.append(f'<text class="{role}" x="{middle:.1f}" y="{y:.1f}" text-anchor="middle">{_escape(line)}</text>')
    if box.label and box.after:
        y = top + box.height + 12
        parts.append(f'<text class="quiet" x="{middle + 5:.1f}" y="{y:.1f}">{_escape(box.label)}</text>')
    return "".join([*parts, "</g>"])


def _edge(box: _Box, to: _Box, tops: Sequence[float]) -> str:
    x1, y1 = box.x + box.width / 2, tops[box.rank] + box.height
    x2, y2 = to.x + to.width / 2, tops[to.rank]
    through = ""
    if not box.title:  # straight past the layers of its rank
        through, y1 = f"V{tops[box.rank + 1] - _GAP_Y:.1f}", tops[box.rank + 1] - _GAP_Y
    bow = (y2 - y1) / 2
    begin = f"M{x1:.1f} {tops[box.rank] if through else y1:.1f}{through}"
    line = f'<path d="{begin}C{x1:.1f} {y1 + bow:.1f} {x2:.1f} {y2 - bow:.1f} {x2:.1f} {y2:.1f}"/>'
    if not to.title:
        return line
    return f'{line}<path class="tip" d="M{x2 - 3:.1f} {y2 - 6:.1f}h6l-3 6z"/>'
