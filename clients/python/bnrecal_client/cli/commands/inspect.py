"""`bnrecal inspect`: the inputs, outputs and BatchNorm layers of a model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.in_process import inspect_file
from bnrecal_client.cli.output import count, print_json, print_lines, table

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "inspect",
        help="list a model's BatchNorm layers and inputs",
        description="List an ONNX model's inputs, outputs and BatchNorm layers, and why a layer "
        "cannot be recalibrated.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX file")
    arguments.add_common(parser)
    parser.set_defaults(command=run)


def run(args: Namespace) -> None:
    """Print the description of the model."""
    info = inspect_file(args.model)
    if args.json:
        print_json(_as_json(info))
    else:
        print_lines(_lines(info))


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
