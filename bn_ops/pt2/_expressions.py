"""Symbolic sizes: the one place where a `.pt2` file holds text that torch evaluates.

torch hands such text to sympy, which hands it to `eval`. What passes here is sums, products and a
few integer functions of size symbols; it cannot name anything else. It is parsed, never evaluated,
and written anew from what was understood.
"""

from __future__ import annotations

import ast
import re

from bn_ops.pt2._refusal import refused

__all__ = ["clean_expression", "clean_symbol"]

_LONGEST = 2_000
_LARGEST = 1 << 62

# Size symbols as torch.export names them: s0, s77, u3.
_SYMBOL = re.compile(r"[su]\d{1,6}")
# What torch writes is sympy's own notation: Add(Symbol('s0', integer=True), Integer(1)).
_FUNCTIONS = frozenset(
    {
        *("Add", "Mul", "Max", "Min", "Mod"),
        *("CeilDiv", "CleanDiv", "FloorDiv", "ModularIndexing", "PythonMod"),
    }
)
_ASSUMPTIONS = frozenset({"integer", "positive", "nonnegative", "negative", "nonzero", "zero"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
# No larger powers: 9**9**9 is no code, and still never ends.
_LARGEST_POWER = 4


def clean_symbol(text: object) -> str:
    """Return the name of a size symbol.

    Raises:
        ModelUnsafeError: it is anything else.
    """
    if not isinstance(text, str) or not _SYMBOL.fullmatch(text):
        raise refused("the name of a size", text)
    return text


def clean_expression(text: object) -> str:
    """Return a symbolic size: numbers, size symbols, sums, products and integer functions of them.

    Raises:
        ModelUnsafeError: it holds anything else.
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise refused("a symbolic size", text)
    try:
        tree = ast.parse(text.strip(), mode="eval")
        if _allowed(tree.body):
            return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # it is no expression at all; refused like one that is not allowed
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
            return type(value) is int and value < _LARGEST
        case _:
            return False


def _is_small(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=value)], keywords=[]):
            return type(value) is int and value <= _LARGEST_POWER
        case _:
            return False
