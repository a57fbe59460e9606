"""Policy for untrusted models: standard operators only, and a limited number of them.

A worker checks it before any deeper analysis. Operators of other domains are rejected, because
custom operator libraries are never loaded. Functions that the file defines are allowed if their
bodies follow the same policy. Nested functions can grow exponentially when they are inlined, so the
inlined size is computed first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from bn_ops.errors import ModelUnsupportedError

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# The largest networks in use have some tens of thousands of nodes.
MAX_NODES = 1_000_000
# Nesting of subgraphs (If in Loop in If …). Two or three levels are common; each uses a stack frame
# of the runtime.
MAX_DEPTH = 16

_Key = tuple[str, str, str]


def read(path: str) -> onnx.ModelProto | None:
    """Return the model in a file, without external data; None if the file is not a model.

    Raises:
        ModelUnsupportedError: an operator of another domain, a recursive function, subgraphs nested
            too deeply, too many nodes, or an unknown opset.
    """
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(Path(path).read_bytes())
    except (OSError, ValueError, RuntimeError, MemoryError):
        return None  # the next reader reports what is wrong
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        return None
    check_model(model)
    return model


def check_model(model: onnx.ModelProto, *, max_nodes: int = MAX_NODES) -> None:
    """Check that a model follows the policy.

    Args:
        model: the model, without its external data.
        max_nodes: limit of nodes after inlining all functions.

    Raises:
        ModelUnsupportedError: see `read`.
    """
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise ModelUnsupportedError(
                f"the model has opset {opset.version}, opsets up to {newest} are supported: "
                "export it with an older one"
            )
    functions = {_key_of(one): one for one in model.functions}
    grown: dict[_Key, int] = {}
    for key in functions:
        _grow(key, functions, grown, ())
    nodes = _count(model.graph.node, functions, grown, depth=0)
    if nodes > max_nodes:
        raise ModelUnsupportedError(
            f"the model has {nodes} nodes after inlining its functions, the limit is {max_nodes}"
        )


def _key_of(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _grow(
    key: _Key,
    functions: Mapping[_Key, onnx.FunctionProto],
    grown: dict[_Key, int],
    callers: tuple[_Key, ...],
) -> int:
    """Return the number of nodes of a function with its callees inlined."""
    if key in callers:
        raise ModelUnsupportedError(f"the function {_shown(key[1])} calls itself")
    if len(callers) > MAX_DEPTH * 4:
        raise ModelUnsupportedError("functions are nested too deeply")
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
                "supported: use standard operators, or functions that the model defines itself"
            )
        total += grown.get(called, 1)
    return total


def _all_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[onnx.NodeProto]:
    """Yield nodes and the nodes of their subgraphs."""
    if depth > MAX_DEPTH:
        raise ModelUnsupportedError(f"subgraphs are nested more than {MAX_DEPTH} levels deep")
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.node:
                    yield from _all_nodes(graph.node, depth + 1)


def _shown(name: str) -> str:
    return repr(name[:60])
