"""Check the two kinds of text in a `.pt2` file that torch parses further.

Symbolic sizes are passed by torch to sympy, which passes them to `eval`. Only sums, products and a
few integer functions of size symbols are allowed; other names are rejected. The text is parsed,
never evaluated, and written anew from the parsed form.

Trees describe how inputs and outputs are nested. torch finds the class of a container by the name
in the file and imports modules for some of them, so only tuples, lists and dicts are allowed.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.torch_modules.pt2._archive import refused, strict_json

__all__ = ["clean_expression", "clean_symbol", "clean_tree"]

_MAX_EXPRESSION = 2_000
_MAX_NUMBER = 1 << 62

# Size symbols as torch.export names them: s0, s77, u3.
_SYMBOL = re.compile(r"[su]\d{1,6}")
# torch writes sympy's own notation: Add(Symbol('s0', integer=True), Integer(1)).
_FUNCTIONS = frozenset(
    {
        *("Add", "Mul", "Max", "Min", "Mod"),
        *("CeilDiv", "CleanDiv", "FloorDiv", "ModularIndexing", "PythonMod"),
    }
)
_ASSUMPTIONS = frozenset({"integer", "positive", "nonnegative", "negative", "nonzero", "zero"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
# No larger powers: 9**9**9 runs no code, but never ends.
_MAX_POWER = 4

_SEQUENCES = frozenset({"builtins.tuple", "builtins.list"})
_MAPPINGS = frozenset({"builtins.dict", "collections.OrderedDict"})
_MAX_TREE = 1 << 20


def clean_symbol(text: object) -> str:
    """Return the name of a size symbol.

    Raises:
        ModelUnsafeError: it is not such a name.
    """
    if not isinstance(text, str) or not _SYMBOL.fullmatch(text):
        raise refused("the name of a size", text)
    return text


def clean_expression(text: object) -> str:
    """Return a symbolic size: numbers, size symbols, sums, products and integer functions of them.

    Raises:
        ModelUnsafeError: it contains anything else.
    """
    if not isinstance(text, str) or len(text) > _MAX_EXPRESSION:
        raise refused("a symbolic size", text)
    try:
        tree = ast.parse(text.strip(), mode="eval")
        if _allowed(tree.body):
            return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # not an expression at all; rejected like one that is not allowed
    raise refused("a symbolic size", text)


def _allowed(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return _is_number(node)
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _allowed(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            return isinstance(operator, _OPERATORS) and _allowed(left) and _allowed(right)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            return _allowed_call(name, arguments, keywords)
        case _:
            return False


def _allowed_call(name: str, arguments: list[ast.expr], keywords: list[ast.keyword]) -> bool:
    if name == "Symbol":
        return _is_symbol(arguments) and all(_is_assumption(keyword) for keyword in keywords)
    if keywords:
        return False
    if name == "Integer":
        return len(arguments) == 1 and _is_number(arguments[0])
    if name == "Pow":
        return len(arguments) == len(("base", "power")) and (
            _allowed(arguments[0]) and _is_small(arguments[1])
        )
    return name in _FUNCTIONS and all(_allowed(argument) for argument in arguments)


def _is_symbol(arguments: list[ast.expr]) -> bool:
    match arguments:
        case [ast.Constant(value=str(name))]:
            return _SYMBOL.fullmatch(name) is not None
        case _:
            return False


def _is_assumption(keyword: ast.keyword) -> bool:
    value = keyword.value
    return (
        keyword.arg in _ASSUMPTIONS
        and isinstance(value, ast.Constant)
        and type(value.value) is bool
    )


def _is_number(node: ast.expr) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_number(operand)
        case ast.Constant(value=value):
            return type(value) is int and value < _MAX_NUMBER
        case _:
            return False


def _is_small(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=value)], keywords=[]):
            return type(value) is int and value <= _MAX_POWER
        case _:
            return False


def clean_tree(text: Any) -> str:
    """Return the JSON text of a tree of tuples, lists and dicts.

    Raises:
        ModelInvalidError: it is not such text.
        ModelUnsafeError: it contains another class.
    """
    if not isinstance(text, str) or len(text) > _MAX_TREE:
        raise ModelInvalidError(
            "the .pt2 file has no valid description of how its inputs are nested"
        )
    version, tree = _pair(strict_json(text, "the structure of inputs"))
    if type(version) is not int:
        raise ModelInvalidError(
            "the .pt2 file has no valid description of how its inputs are nested"
        )
    try:
        return json.dumps([version, _tree_node(tree)])
    except RecursionError as error:
        raise ModelInvalidError("the inputs of the .pt2 file are nested too deeply") from error


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, list) or len(found) != len(("version", "tree")):
        raise ModelInvalidError(
            "the .pt2 file has no valid description of how its inputs are nested"
        )
    return found[0], found[1]


def _tree_node(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
        raise ModelInvalidError(
            "the .pt2 file has no valid description of how its inputs are nested"
        )
    kind, context, children = node["type"], node["context"], node["children_spec"]
    if not isinstance(kind, str | None) or not isinstance(children, list):
        raise ModelInvalidError(
            "the .pt2 file has no valid description of how its inputs are nested"
        )
    if kind in _MAPPINGS:
        keys = strict_json(context, "the keys of an input") if isinstance(context, str) else None
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            raise refused("a mapping whose keys are not names", context)
        context = json.dumps(keys)
    elif (kind is not None and kind not in _SEQUENCES) or context not in (None, "null"):
        raise refused("an input or output of another class", kind)
    return {
        "type": kind,
        "context": context,
        "children_spec": [_tree_node(child) for child in children],
    }
