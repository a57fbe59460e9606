"""`bnrecal inspect`, `plan` and `fold`: what a model is, what it costs, and folding it as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnrecal_client._library import library
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.data.array_batches import open_data
from bnrecal_client.cli.data.image_files import open_images
from bnrecal_client.cli.data.preprocess_files import PRESETS
from bnrecal_client.cli.in_process import FoldedFile, fold_file, inspect_file, rank_images
from bnrecal_client.cli.output import (
    count,
    file_size,
    parity_line,
    parity_of,
    print_json,
    print_lines,
    table,
)
from bnrecal_client.cli.outputs import check_output

__all__ = ["fold", "inspect", "plan"]

_IMAGES = 64
_SHOWN = 6
_USUAL = 0.5
"""Distance in σ that the right preprocessing usually stays below; see docs/input-check.md."""


def inspect(args: Arguments) -> None:
    """Print the description of the model."""
    info = inspect_file(args.model)
    ranking = None if not args.images else _rank(args.model, args.images)
    if args.json:
        more = {} if ranking is None else ranking.as_json()
        print_json({**_as_json(info), **more})
    elif not args.quiet:
        print_lines([*_lines(info), *([] if ranking is None else ranking.lines())])


def plan(args: Arguments) -> None:
    """Print what a recalibration of many samples needs."""
    with library("a model is measured in this process"):
        from bn_ops.pipeline.cost import PLAN_OPTIONS, plan_runs

        found = plan_runs(**{name: getattr(args, name) for name in PLAN_OPTIONS})
    if args.json:
        print_json(found.to_json())
    elif not args.quiet:
        print_lines(found.lines())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranking:
    """Common preprocessings of images, ranked for a model.

    Attributes:
        images: number of images.
        scores: the `bn_ops.PreprocessingScore`s, the best first.
        sized: size and layout of the model's input.
    """

    images: int
    scores: Sequence[Any]
    sized: Mapping[str, object]

    def preset(self) -> str | None:
        """Return the name for `--preprocess` of the best; None if it is not one of the presets."""
        best = self.scores[0]
        order = PRESETS.get(best.name, {}).get("color", "rgb")
        usual = best.preprocess.color in {order, "gray"}
        return best.name if best.name in PRESETS and usual else None

    def form(self) -> dict[str, object]:
        """Return the JSON form of the best."""
        values = _values(self.scores[0].preprocess)
        return {**values, **{key: self.sized[key] for key in ("resize", "crop", "layout")}}

    def as_json(self) -> dict[str, Any]:
        """Return the ranking as members of the command's JSON."""
        return {
            "preprocessings": [
                {
                    "name": score.name,
                    "color_order": score.color_order,
                    "distance": score.distance,
                }
                for score in self.scores
            ],
            "preset": self.preset(),
            "preprocess": self.form(),
        }

    def lines(self) -> list[str]:
        """Return the ranking as text."""
        rows = [[s.name, _colors(s), f"{s.distance:.2f}"] for s in self.scores[:_SHOWN]]
        named = self.preset()
        use = f"--preprocess {named}"
        if named is None:
            use = f"--preprocess FILE, a JSON file with {json.dumps(self.form())}"
        near = self.scores[0].distance <= _USUAL
        lines = [
            "",
            *table(
                ["preprocessing", "colors", "distance/σ"], rows, right=frozenset({2})
            ).splitlines(),
            "",
            f"{'use' if near else 'closest:'} {use}  (from {count(self.images, 'image')})",
        ]
        if not near:
            lines.append(
                f"warning: none is within {_USUAL:g} σ, as the right one usually is. The new "
                "domain can explain that, but the closest is then wrong more often than right "
                "(docs/input-check.md): use what the model was trained with"
            )
        return lines


def _colors(score: Any) -> str:
    return "rgb or bgr" if score.color_order == "undecided" else str(score.color_order)


def _values(preprocess: Any) -> dict[str, object]:
    """Return the members of a preprocessing that concern colors and values."""
    form: Mapping[str, object] = preprocess.to_json()
    return {key: form[key] for key in ("color", "scale", "mean", "std")}


def _rank(model: Path, paths: Sequence[Path]) -> _Ranking:
    images = open_images(paths, batch_size=_IMAGES, limit=None).spread(_IMAGES)
    named = [item for _, item in images.numbered()]
    scores, sized = rank_images(model, named)
    return _Ranking(images=len(named), scores=scores, sized=sized)


def _lines(info: Any) -> list[str]:
    reachable = sum(layer.reason is None for layer in info.layers)
    lines = [f"input   {tensor.name}  {_signature(tensor)}" for tensor in info.inputs]
    lines += [f"output  {tensor.name}  {_signature(tensor)}" for tensor in info.outputs]
    lines += ["", *_table(info.layers).splitlines(), ""]
    lines.append(f"{count(len(info.layers), 'layer')}, {reachable:,} can be recalibrated")
    return [*lines, *(f"warning: {warning}" for warning in info.warnings)]


def _table(layers: Any) -> str:
    rows = [
        [
            layer.name,
            "?" if layer.channels is None else f"{layer.channels:,}",
            f"{layer.eps:.3g}",
            "yes" if layer.affine else "no",
            layer.reason or "",
        ]
        for layer in layers
    ]
    head = ["layer", "channels", "eps", "affine", "cannot be recalibrated because"]
    if not any(layer.reason for layer in layers):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows, right=frozenset({1, 2}))


def _signature(tensor: Any) -> str:
    if tensor.shape is None:
        return f"{tensor.dtype} of unknown rank"
    sizes = ("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.dtype}[{', '.join(sizes)}]"


def _as_json(info: Any) -> dict[str, Any]:
    """Return the same members as the server's description of a model."""
    return {
        "inputs": [_tensor(tensor) for tensor in info.inputs],
        "outputs": [_tensor(tensor) for tensor in info.outputs],
        "layers": [
            {
                "name": layer.name,
                "channels": layer.channels,
                "eps": layer.eps,
                "affine": layer.affine,
                "input_rank": layer.input_rank,
                "reason": layer.reason,
            }
            for layer in info.layers
        ],
        "warnings": list(info.warnings),
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    shape = None if tensor.shape is None else list(tensor.shape)
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": shape}


_SAMPLES = 32
"""Most samples of the verification, as after a recalibration."""

_BATCH = 8


def fold(args: Arguments) -> None:
    """Fold and verify the model, write it and print what happened to each layer."""
    check_output(args.output, () if args.force else (args.model, *args.data))
    batches = open_data(args.data, batch_size=_BATCH, limit=_SAMPLES) if args.data else ()
    folded = fold_file(args.model, batches)
    folded.folded.save(args.output)
    if args.json:
        print_json(_fold_json(folded, args.output))
    elif not args.quiet:
        print_lines(_fold_lines(folded, args.output))


def _fold_lines(folded: FoldedFile, output: Path) -> list[str]:
    if not folded.layers:
        wrote = f"wrote model  {output} ({file_size(output)}), unchanged except for unused parts"
        return ["the model has no BatchNormalization node: there is nothing to fold", wrote]
    rows = [[f["name"], f["status"], f["rule"] or f["reason"] or ""] for f in folded.layers]
    known = parity_of({"parity": folded.parity})
    return [
        *table(["layer", "", "rule or reason"], rows, right=frozenset()).splitlines(),
        "",
        f"folded {_folded(folded):,} of {count(len(rows), 'layer')}",
        *([] if known is None else [parity_line(known)]),
        *(f"note: {note}" for note in folded.parity["notes"]),
        f"wrote model  {output} ({file_size(output)})",
    ]


def _fold_json(folded: FoldedFile, output: Path) -> dict[str, Any]:
    return {
        "layers": list(folded.layers),
        "folded": _folded(folded),
        "parity": dict(folded.parity),
        "files": {"model": str(output)},
    }


def _folded(folded: FoldedFile) -> int:
    return sum(layer["status"] == "folded" for layer in folded.layers)
