"""Check the JSON of the network in a `.pt2` archive key by key and rebuild it.

Every key is on a list with a rule for its value. Operators are torch's own tensor operators and
some arithmetic on sizes; names are identifiers; text that torch would parse further (symbolic
sizes, the structure of inputs and outputs) has a grammar of its own. Guards are code and are
dropped, and so is the metadata of a node except the path of its module, which names its layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.torch_modules.pt2._archive import refused
from bn_ops.torch_modules.pt2._grammars import clean_symbol, clean_tree
from bn_ops.torch_modules.pt2._tensors import clean_path, clean_size, clean_tensor

__all__ = ["clean_program", "operators"]

_NAME = re.compile(r"[A-Za-z_]\w{0,511}")
# Values of modes, roundings, norms: "floor", "reflect", "mean".
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_, \->]{0,63}|")
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.[A-Za-z]\w{0,63}\.[A-Za-z]\w{0,63}"
    r"|torch\.sym_(float|int|max|min|not|sum)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc)"
)
_STACK = "nn_module_stack"
_MODULE = r"[\w.@]{1,512},[\w.@]{0,512},[\w.]{1,512}"
_MODULES = re.compile(rf"{_MODULE}(;{_MODULE}){{0,99}}")


def clean_program(program: Any) -> dict[str, Any]:
    """Return the program with only allowed parts.

    Raises:
        ModelInvalidError: it is not a program.
        ModelUnsafeError: it contains a part that is not on the list.
    """
    if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
        raise ModelInvalidError("the .pt2 file contains no graph")
    module = program["graph_module"]
    return {
        "graph_module": {
            "graph": _graph(module.get("graph")),
            "signature": _signature(module.get("signature")),
            "module_call_graph": _root_call(module.get("module_call_graph")),
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": _opsets(program.get("opset_version")),
        "range_constraints": _ranges(program.get("range_constraints")),
        "schema_version": _version(program.get("schema_version")),
        "verifiers": _words(program.get("verifiers", [])),
        "torch_version": "",
        "guards_code": [],
    }


def operators(program: Mapping[str, Any]) -> set[str]:
    """Return the operators of a program that `clean_program` returned."""
    nodes = program["graph_module"]["graph"].get("nodes", [])
    return {node["target"] for node in nodes if "target" in node}


def _root_call(entries: Any) -> list[dict[str, Any]]:
    """Keep the call signature of the root module only; those of its parts are not needed."""
    root = [e for e in entries if isinstance(e, dict) and e.get("fqn") == ""] if entries else []
    if len(root) != 1:
        raise ModelInvalidError("the .pt2 file has no call signature of its network")
    return [_call(root[0])]


_Rule = Callable[[Any], Any]


def _object(rules: Mapping[str, _Rule]) -> _Rule:
    """Build a rule for an object from rules for its keys; other keys are rejected."""

    def clean(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ModelInvalidError(
                f"the .pt2 file contains {str(value)[:80]!r} where an object is expected"
            )
        unknown = sorted(value.keys() - rules.keys())
        if unknown:
            raise refused("an unknown member", unknown[0])
        return {key: rules[key](part) for key, part in value.items()}

    return clean


def _each(rule: _Rule) -> _Rule:
    def clean(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ModelInvalidError(f"the .pt2 file contains {str(value)[:80]!r}, not a list")
        return [rule(one) for one in value]

    return clean


def _named(name: _Rule, rule: _Rule) -> _Rule:
    def clean(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ModelInvalidError(f"the .pt2 file contains {str(value)[:80]!r}, not an object")
        return {name(key): rule(part) for key, part in value.items()}

    return clean


def _maybe(rule: _Rule) -> _Rule:
    return lambda value: None if value is None else rule(value)


def _matching(pattern: re.Pattern[str], what: str) -> _Rule:
    def clean(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise refused(what, value)
        return value

    return clean


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) >= 1 << 63:
        raise ModelInvalidError(f"the .pt2 file contains {str(value)[:80]!r}, not a number")
    return value


def _float(value: Any) -> float | str:
    if value in ("Infinity", "-Infinity", "NaN"):
        return str(value)
    if type(value) not in (int, float):
        raise ModelInvalidError(f"the .pt2 file contains {str(value)[:80]!r}, not a number")
    return value  # type: ignore[no-any-return]  # it is an int or a float


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ModelInvalidError(f"the .pt2 file contains {str(value)[:80]!r}, not a boolean")
    return value


def _cpu(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelInvalidError("the .pt2 file contains an invalid device")
    return {"type": "cpu", "index": None}


def _metadata(value: Any) -> dict[str, str]:
    """Keep the module stack of a node if it is a plain list of paths and classes."""
    stack = value.get(_STACK) if isinstance(value, dict) else None
    return {_STACK: stack} if isinstance(stack, str) and _MODULES.fullmatch(stack) else {}


def _empty(value: Any) -> dict[str, Any]:
    if value:
        raise refused("a custom object", next(iter(value)))
    return {}


_name = _matching(_NAME, "an invalid name")
_word = _matching(_WORD, "text as an argument")
_operator = _matching(_OPERATOR, "an operator that is not allowed")

_words = _each(_word)

_tensor = _object({"name": _name})
_symbolic = _object({"as_name": _name, "as_int": _integer, "as_float": _float, "as_bool": _boolean})
_optional = _object({"as_tensor": _tensor, "as_none": _boolean})

# Not listed, and so rejected: graphs, operators, custom objects and nested containers as arguments.
# So no object contains another of its kind; JSON that is nested too deeply fails to parse.
_argument = _object(
    {
        "as_none": _boolean,
        "as_tensor": _tensor,
        "as_tensors": _each(_tensor),
        "as_int": _integer,
        "as_ints": _each(_integer),
        "as_float": _float,
        "as_floats": _each(_float),
        "as_string": _word,
        "as_sym_int": _symbolic,
        "as_sym_ints": _each(_symbolic),
        "as_sym_float": _symbolic,
        "as_sym_floats": _each(_symbolic),
        "as_sym_bool": _symbolic,
        "as_scalar_type": _integer,
        "as_memory_format": _integer,
        "as_layout": _integer,
        "as_device": _cpu,
        "as_bool": _boolean,
        "as_bools": _each(_boolean),
        "as_optional_tensor": _optional,
        "as_optional_tensors": _each(_optional),
        "as_complex": _object({"real": _float, "imag": _float}),
    }
)

_input = _object({"name": _name, "arg": _argument, "kind": _maybe(_integer)})
_node = _object(
    {
        "target": _operator,
        "inputs": _each(_input),
        "outputs": _each(_argument),
        "metadata": _metadata,
        "is_hop_single_tensor_return": _maybe(_boolean),
        "name": _maybe(_name),
    }
)
_graph = _object(
    {
        "inputs": _each(_argument),
        "outputs": _each(_argument),
        "nodes": _each(_node),
        "tensor_values": _named(_name, clean_tensor),
        "sym_int_values": _named(_name, clean_size),
        "sym_bool_values": _named(_name, _object({"as_bool": _boolean})),
        "sym_float_values": _named(_name, _object({"as_float": _float})),
        "is_single_tensor_return": _boolean,
        "custom_obj_values": _empty,
    }
)

_constant = _object(
    {
        "as_none": _boolean,
        "as_int": _integer,
        "as_float": _float,
        "as_string": _word,
        "as_bool": _boolean,
    }
)
_input_spec = _object(
    {
        "user_input": _object({"arg": _argument}),
        "parameter": _object({"arg": _tensor, "parameter_name": clean_path}),
        "buffer": _object({"arg": _tensor, "buffer_name": clean_path, "persistent": _boolean}),
        "tensor_constant": _object({"arg": _tensor, "tensor_constant_name": clean_path}),
        "constant_input": _object({"name": _name, "value": _constant}),
    }
)
_output_spec = _object(
    {
        "user_output": _object({"arg": _argument}),
        "loss_output": _object({"arg": _tensor}),
        "buffer_mutation": _object({"arg": _tensor, "buffer_name": clean_path}),
    }
)
_signature = _object({"input_specs": _each(_input_spec), "output_specs": _each(_output_spec)})
_call_signature = _object(
    {
        "inputs": _each(_argument),
        "outputs": _each(_argument),
        "in_spec": clean_tree,
        "out_spec": clean_tree,
        "forward_arg_names": _maybe(_each(_name)),
    }
)
_call = _object({"fqn": _matching(re.compile(""), "a call"), "signature": _call_signature})
_opsets = _named(_name, _integer)
_ranges = _named(clean_symbol, _object({"min_val": _maybe(_integer), "max_val": _maybe(_integer)}))
_version = _object({"major": _integer, "minor": _integer})
