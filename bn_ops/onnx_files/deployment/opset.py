"""Convert a model to another version of ONNX's default operator set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
from onnx import defs, helper, inliner, version_converter

from bn_ops.errors import TargetError
from bn_ops.onnx_files.deployment.adapters import ADAPTERS, GraphFacts
from bn_ops.onnx_files.large_models import bare_copy, inlined, light_copy
from bn_ops.onnx_files.traversal import nested_nodes, standard_opset

if TYPE_CHECKING:
    from onnx.defs import OpSchema

__all__ = ["convert_opset", "max_opset"]

_MIN_IR_VERSION = 4
"""The first version in which an initializer need not be an input as well."""

_HIDDEN_DOMAIN = "bnrecal.unchanged"

_DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})

_MEANING_CHANGED = frozenset(
    {
        ("Softmax", 13),
        ("LogSoftmax", 13),
        ("Hardmax", 13),
        ("Resize", 13),
        ("GridSample", 20),
    }
)
"""Operators, and the versions that changed their meaning but not their signature."""

_RENAMED_INPUTS = frozenset({"BatchNormalization"})
"""Operators whose versions differ only in the names of inputs, as long as one output is used."""


def max_opset() -> int:
    """Return the newest version that the installed `onnx` knows."""
    return int(defs.onnx_opset_version())


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model that computes the same with another version of the default operator set.

    Local functions are inlined. The conversion goes version by version. A node whose operator means
    the same in both versions is kept; the others are converted by `onnx.version_converter`, which
    has no adapter for many changes that need none. An operator that the version lacks is replaced
    by the body that the ONNX standard defines for it.

    Args:
        model: not changed. Large initializers are copied as they are, never converted.
        opset: the version.

    Raises:
        TargetError: an operator cannot be expressed in that version.
    """
    if standard_opset(model) == opset:
        return model
    model = inlined(model)
    light = _without_missing_operators(light_copy(model), opset)
    step = 1 if opset > standard_opset(light) else -1
    for version in range(standard_opset(light), opset, step):
        light = _one_version(light, version, version + step, wanted=opset)
    required = helper.find_min_ir_version_for(list(light.opset_import), ignore_unknown=True)
    light.ir_version = (
        max(model.ir_version, required)
        if step > 0
        else min(model.ir_version, max(_MIN_IR_VERSION, required))
    )
    _check(light, opset)
    return _with_large_initializers(light, model)


def _with_large_initializers(light: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the converted structure with the inputs and the large initializers of the model."""
    result = bare_copy(light)
    inputs = {value.name for value in model.graph.input}
    kept = [value for value in light.graph.input if value.name in inputs]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    small = {tensor.name: tensor for tensor in light.graph.initializer}
    used = {name for node in nested_nodes(light.graph.node) for name in node.input}
    used.update(value.name for value in light.graph.output)
    for tensor in model.graph.initializer:
        if tensor.name in small or tensor.name in used:
            result.graph.initializer.add().CopyFrom(small.pop(tensor.name, tensor))
    for tensor in small.values():
        result.graph.initializer.add().CopyFrom(tensor)
    return result


def _schema(node: onnx.NodeProto, opset: int) -> OpSchema | None:
    try:
        return defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None


def _default_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in nested_nodes(model.graph.node) if node.domain in _DEFAULT_DOMAINS]


def _without_missing_operators(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Replace operators that a version lacks by their definition in older operators."""
    current = standard_opset(model)
    replaced: set[str] = set()
    # The definition of one operator may contain another one that the version lacks.
    while missing := {n.op_type for n in _default_nodes(model) if _schema(n, opset) is None}:
        for name in sorted(missing):
            schema = defs.get_schema(name, current, "")
            if name in replaced or not _has_definition(schema):
                raise _missing(name, current, opset)
        model = inliner.inline_selected_functions(
            onnx.shape_inference.infer_shapes(model),
            [("", name) for name in sorted(missing)],
            inline_schema_functions=True,
        )
        replaced |= missing
    return model


def _has_definition(schema: Any) -> bool:  # the stubs of onnx lack both properties
    return bool(schema.has_function or schema.has_context_dependent_function)


def _missing(operator: str, current: int, opset: int) -> TargetError:
    since = defs.get_schema(operator, current, "").since_version
    first = min(
        (s.since_version for s in defs.get_all_schemas_with_history() if s.name == operator),
        default=since,
    )
    return TargetError(
        f"the operator {operator} does not exist in opset {opset}: choose an opset of at least "
        f"{first}, or replace it in the network",
        operator=operator,
        opset=opset,
    )


def _one_version(
    model: onnx.ModelProto, version: int, following: int, *, wanted: int
) -> onnx.ModelProto:
    """Convert between neighboring versions."""
    different = _adapted(model, version, following)
    if different:
        with _hidden(model, except_for=different):
            model = _converted(model, version, following, wanted)
        _reveal(model)
    for entry in model.opset_import:
        if entry.domain in _DEFAULT_DOMAINS:
            entry.version = following
    return model


def _adapted(model: onnx.ModelProto, version: int, following: int) -> list[onnx.NodeProto]:
    """Apply the adapters to the main graph, in place; return the nodes that still differ."""
    facts: GraphFacts | None = None
    nodes: list[onnx.NodeProto] = []
    rewritten: set[str] = set()
    for node in model.graph.node:
        adapter = ADAPTERS.get((node.op_type, version)) if following < version else None
        if adapter is None or not _differs(node, version, following):
            nodes.append(node)
            continue
        facts = GraphFacts.of(model) if facts is None else facts
        replacement = adapter(node, facts)
        nodes.extend(replacement or [node])
        rewritten.update(name for new in replacement or () for name in new.output)
    if facts is not None:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(facts.added)
    return [
        node
        for node in _default_nodes(model)
        if rewritten.isdisjoint(node.output) and _differs(node, version, following)
    ]


def _differs(node: onnx.NodeProto, version: int, following: int) -> bool:
    """Return whether a node has to be rewritten for the following version.

    Attributes that the following version lacks are removed where they have their default value.
    """
    old, new = _schema(node, version), _schema(node, following)
    if old is None or (new is not None and old.since_version == new.since_version):
        return False
    if new is None or (node.op_type, max(version, following)) in _MEANING_CHANGED:
        return True
    unknown = [item for item in node.attribute if item.name not in new.attributes]
    for item in unknown:
        if not _is_default(item, old):
            return True
        node.attribute.remove(item)
    given = {item.name for item in node.attribute}
    for name in (old.attributes.keys() & new.attributes.keys()) - given:
        if old.attributes[name].default_value != new.attributes[name].default_value:
            return True
    return not _same_inputs(node, old, new)


def _is_default(item: onnx.AttributeProto, schema: OpSchema) -> bool:
    known = schema.attributes.get(item.name)
    default = None if known is None else known.default_value
    return (
        default is not None
        and bool(default.name)
        and (helper.get_attribute_value(item) == helper.get_attribute_value(default))
    )


def _same_inputs(node: onnx.NodeProto, old: OpSchema, new: OpSchema) -> bool:
    if len(node.input) > new.max_input or len(node.output) > new.max_output:
        return False
    if len(node.input) < new.min_input:
        return False
    if node.op_type in _RENAMED_INPUTS:
        return len(node.output) == 1
    used = min(len(node.input), len(old.inputs), len(new.inputs))
    return [i.name for i in old.inputs[:used]] == [i.name for i in new.inputs[:used]]


@contextmanager
def _hidden(model: onnx.ModelProto, *, except_for: Sequence[onnx.NodeProto]) -> Iterator[None]:
    """Hide nodes from the converter, which fails on operators for which it has no adapter."""
    visible = {id(node) for node in except_for}
    hidden = [node for node in _default_nodes(model) if id(node) not in visible]
    model.opset_import.add(domain=_HIDDEN_DOMAIN, version=1)
    for node in hidden:
        node.domain = _HIDDEN_DOMAIN
    yield
    _reveal(model)


def _reveal(model: onnx.ModelProto) -> None:
    for node in nested_nodes(model.graph.node):
        if node.domain == _HIDDEN_DOMAIN:
            node.domain = ""
    for entry in [e for e in model.opset_import if e.domain == _HIDDEN_DOMAIN]:
        model.opset_import.remove(entry)


def _converted(
    model: onnx.ModelProto, version: int, following: int, wanted: int
) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, following)
    except (RuntimeError, version_converter.ConvertError) as error:
        operator = _operator_at_fault(str(error), model)
        reason = str(error).rpartition(":")[2].strip()
        raise TargetError(
            f"the operator {operator} cannot be converted from opset {version} to {following}, "
            f"on the way to {wanted} ({reason}): choose an opset of at least {version}, or replace "
            "it in the network",
            operator=operator,
            opset=wanted,
        ) from error


def _operator_at_fault(message: str, model: onnx.ModelProto) -> str:
    names = sorted({node.op_type for node in _default_nodes(model)})
    found = [name for name in names if re.search(rf"\b{name}\b", message)]
    return (found or names)[0]


def _check(model: onnx.ModelProto, opset: int) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        match = re.search(r"OpType: (\w+)", str(error))
        operator = match.group(1) if match else None
        reason = str(error).splitlines()[0]
        where = "" if operator is None else f" at an operator {operator}"
        raise TargetError(
            f"the model converted to opset {opset} is invalid{where} ({reason}): choose another "
            "opset, or replace it in the network",
            operator=operator,
            opset=opset,
        ) from error
