"""What a stranger's model may be made of: standard operators, and not too many of them.

Checked in the worker before anything looks deeper. Operators of other domains have no meaning here
(no library of custom ones is ever loaded); functions that the file itself defines have, and their
bodies are held to the same. Functions that call functions can grow without bound when they are
inlined, so the grown size is reckoned first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from bn_ops.errors import ModelUnsupportedError

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# The largest networks in use have some tens of thousands of nodes.
MOST_NODES = 1_000_000
# If in Loop in If …: two or three levels occur; each costs the runtime a stack frame.
DEEPEST = 16

_Key = tuple[str, str, str]


def read(path: str) -> onnx.ModelProto | None:
    """Return the model in a file; None for what is no model at all.

    Tensors that lie in other files are left there.

    Raises:
        ModelUnsupportedError: an operator of a foreign domain, a function that calls itself,
            subgraphs too deep, too many nodes, or an opset of the future.
    """
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(Path(path).read_bytes())
    except (OSError, ValueError, RuntimeError, MemoryError):
        return None  # whoever reads it next says what is wrong, and has the words for it
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        return None
    check_model(model)
    return model


def check_model(model: onnx.ModelProto) -> None:
    """Refuse a model that holds what no model here may hold.

    Raises:
        ModelUnsupportedError: as `read`.
    """
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise ModelUnsupportedError(
                f"the model has opset {opset.version}, known are those up to {newest}: "
                "export it with an older one"
            )
    functions = {_key_of(one): one for one in model.functions}
    grown: dict[_Key, int] = {}
    for key in functions:
        _grow(key, functions, grown, ())
    nodes = _count(model.graph.node, functions, grown, depth=0)
    if nodes > MOST_NODES:
        raise ModelUnsupportedError(
            f"the model has {nodes} nodes with its functions inlined, allowed are {MOST_NODES}"
        )


def _key_of(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _grow(
    key: _Key,
    functions: Mapping[_Key, onnx.FunctionProto],
    grown: dict[_Key, int],
    callers: tuple[_Key, ...],
) -> int:
    """Return the nodes of a function with all that it calls."""
    if key in callers:
        raise ModelUnsupportedError(f"the function {_shown(key[1])} calls itself")
    if len(callers) > DEEPEST * 4:
        raise ModelUnsupportedError("functions call functions too deep")
    if key not in grown:
        inner = (*callers, key)
        nodes = functions[key].node
        for node in _all_nodes(nodes, 0):
            called = (node.domain, node.op_type, node.overload)
            if called in functions:
                _grow(called, functions, grown, inner)
        grown[key] = _count(nodes, functions, grown, depth=0)
    return grown[key]


def _count(
    nodes: Iterable[onnx.NodeProto],
    functions: Mapping[_Key, onnx.FunctionProto],
    grown: Mapping[_Key, int],
    *,
    depth: int,
) -> int:
    total = 0
    for node in _all_nodes(nodes, depth):
        called = (node.domain, node.op_type, node.overload)
        if called not in functions and node.domain not in STANDARD_DOMAINS:
            raise ModelUnsupportedError(
                f"the operator {_shown(node.op_type)} of the domain {_shown(node.domain)} is not "
                "taken: only standard operators are, and functions that the model defines itself"
            )
        total += grown.get(called, 1)
    return total


def _all_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    if depth > DEEPEST:
        raise ModelUnsupportedError(f"subgraphs lie in subgraphs more than {DEEPEST} deep")
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.node:
                    yield from _all_nodes(graph.node, depth + 1)


def _shown(name: str) -> str:
    return repr(name[:60])
