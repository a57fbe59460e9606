"""Untrusted `.pt2` files never run code.

The tests cover the six routes by which such a file runs code in `torch.export.load`, and attempts
to bypass the list of allowed parts.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bn_ops.errors import ModelInvalidError, ModelUnsafeError
from bn_ops.torch_modules.pt2 import load_pt2
from bn_ops.torch_modules.pt2._grammars import clean_expression
from tests.support.pt2_files import MODEL, Small, edited, exchanged, runs_code, saved

_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"

Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    saved(Small(), (torch.randn(2, 3, 8, 8),), path)
    return path


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Return the path of a file that is created when code of a model runs."""
    return tmp_path / "ran"


def _graph(value: Any) -> Any:
    return value["graph_module"]["graph"]


def _import_of(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def _pickled_weight(marker: Path) -> dict[str, Any]:
    def mark(table: Any) -> None:
        table["config"]["conv.weight"]["use_pickle"] = True

    return {_WEIGHTS: edited(mark), "data/weights/weight_0": runs_code(marker)}


def _opaque_constant(marker: Path) -> dict[str, Any]:
    def add(table: Any) -> None:
        table["config"]["c"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    return {_CONSTANTS: edited(add), "data/constants/opaque_obj_0": runs_code(marker)}


def _sample_inputs(marker: Path) -> dict[str, Any]:
    return {_SAMPLES: runs_code(marker)}


def _library(marker: Path) -> dict[str, Any]:
    del marker
    return {"data/aotinductor/model/model.so": b"\x7fELF"}


def _expression(marker: Path) -> dict[str, Any]:
    def put(program: Any) -> None:
        size = {"as_expr": {"expr_str": _import_of(marker), "hint": {"as_int": 2}}}
        _graph(program)["tensor_values"]["x"]["sizes"][0] = size

    return {MODEL: edited(put)}


def _guards(marker: Path) -> dict[str, Any]:
    def put(program: Any) -> None:
        program["guards_code"] = [_import_of(marker)]

    return {MODEL: edited(put)}


_ROUTES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "pickled weight": _pickled_weight,
    "opaque constant": _opaque_constant,
    "sample inputs": _sample_inputs,
    "shared library": _library,
    "symbolic expression": _expression,
    "guards": _guards,
}
# These parts are ignored, because nothing depends on them.
_IGNORED = {"sample inputs", "guards"}


@pytest.mark.parametrize("route", _ROUTES)
def test_no_route_runs_code(valid: Path, tmp_path: Path, marker: Path, route: str) -> None:
    path = exchanged(valid, tmp_path / "bad.pt2", _ROUTES[route](marker))
    if route in _IGNORED:
        load_pt2(path).module()(torch.randn(2, 3, 8, 8))
    else:
        with pytest.raises(ModelUnsafeError, match="could run code"):
            load_pt2(path)
    assert not marker.exists()


@pytest.mark.parametrize("route", ["pickled weight", "opaque constant", "sample inputs"])
def test_the_same_file_runs_code_in_torch(
    valid: Path, tmp_path: Path, marker: Path, route: str
) -> None:
    """Show that the previous test can fail."""
    path = exchanged(valid, tmp_path / "bad.pt2", _ROUTES[route](marker))
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        torch.export.load(path)
    assert marker.exists()


def _set_target(target: str) -> Change:
    def change(program: Any) -> None:
        _graph(program)["nodes"][0]["target"] = target

    return change


def _set_argument(argument: Any) -> Change:
    def change(program: Any) -> None:
        _graph(program)["nodes"][0]["inputs"][0]["arg"] = argument

    return change


def _set_tree(kind: str, context: Any) -> Change:
    def change(program: Any) -> None:
        tree = [1, {"type": kind, "context": context, "children_spec": []}]
        call = program["graph_module"]["module_call_graph"][0]
        call["signature"]["in_spec"] = json.dumps(tree)

    return change


def _nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"as_none": True}
    for _ in range(depth):
        inner = {"as_optional_tensor": inner}
    return inner


def _custom_object(program: Any) -> None:
    _graph(program)["custom_obj_values"] = {"o": {"name": "o", "class_fqn": "a.b"}}


def _custom_input(program: Any) -> None:
    program["graph_module"]["signature"]["input_specs"][0] = {
        "custom_obj": {"arg": {"name": "o", "class_fqn": "a"}, "custom_obj_name": "o"}
    }


def _unknown_key(program: Any) -> None:
    program["graph_module"]["graph"]["hooks"] = ["x"]


def _symbol_name(program: Any) -> None:
    program["range_constraints"] = {"__import__": {"min_val": 0, "max_val": 4}}


def _name_with_code(program: Any) -> None:
    _graph(program)["nodes"][0]["name"] = "x = 1; import os"


_CHANGES: dict[str, Change] = {
    "os.system as an operator": _set_target("torch.os.system"),
    "torch.load as an operator": _set_target("torch.load"),
    "an operator that reads files": _set_target("torch.ops.aten.from_file.default"),
    "an operator that writes files": _set_target("torch.ops.aten.save.default"),
    "an operator of another library": _set_target("torch.ops.mylib.run.default"),
    "an attribute of an operator": _set_target("torch.ops.aten.__class__.mro"),
    "an extension's operator": _set_target("#namespace:op"),
    "a dunder of operator": _set_target("_operator.methodcaller"),
    "an operator that torch lacks": _set_target("torch.ops.aten.not_there.default"),
    "a graph as an argument": _set_argument({"as_graph": {"name": "g", "graph": {}}}),
    "an operator as an argument": _set_argument({"as_operator": "torch.load"}),
    "a custom object as an argument": _set_argument({"as_custom_obj": {"name": "o"}}),
    "text with code as an argument": _set_argument({"as_string": "__import__('os')"}),
    "an argument within an argument": _set_argument(_nested(300)),
    "a defaultdict": _set_tree("collections.defaultdict", '["os", "system", []]'),
    "a named tuple": _set_tree("collections.namedtuple", '"os.terminal_size"'),
    "a custom class": _set_tree("builtins.type", None),
    "custom values": _custom_object,
    "a custom input": _custom_input,
    "an unknown key": _unknown_key,
    "the name of a size": _symbol_name,
    "a name with code": _name_with_code,
}


@pytest.mark.parametrize("what", _CHANGES)
def test_parts_that_are_not_allowed(valid: Path, tmp_path: Path, what: str) -> None:
    path = exchanged(valid, tmp_path / "bad.pt2", {MODEL: edited(_CHANGES[what])})
    with pytest.raises(ModelUnsafeError, match="not allowed"):
        load_pt2(path)


def test_compressed_member(valid: Path, tmp_path: Path) -> None:
    path = exchanged(valid, tmp_path / "bad.pt2", {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelUnsafeError, match="compressed"):
        load_pt2(path)


def test_duplicate_member(valid: Path, tmp_path: Path) -> None:
    path = exchanged(valid, tmp_path / "bad.pt2", {})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr(f"model/{MODEL}", b"{}")
    with pytest.raises(ModelUnsafeError, match="duplicate"):
        load_pt2(path)


@pytest.mark.parametrize(
    "text", ['{"graph_module": 1, "graph_module": 2}', "[" * 100_000, "{", "NaN", '{"a": Infinity}']
)
def test_ambiguous_json(valid: Path, tmp_path: Path, text: str) -> None:
    path = exchanged(valid, tmp_path / "bad.pt2", {MODEL: text.encode()})
    with pytest.raises(ModelInvalidError, match="not valid JSON"):
        load_pt2(path)


_TREES = {
    "children that are not a list": '[1, {"type": null, "context": null, "children_spec": 5}]',
    "a list as a class": '[1, {"type": [], "context": null, "children_spec": []}]',
    "no children at all": '[1, {"type": null, "context": null}]',
    "too deep": "[1, "
    + '{"type": "builtins.list", "context": null, "children_spec": [' * 9_000
    + "]}" * 9_000
    + "]",
    "a number": "7",
}


@pytest.mark.parametrize("what", _TREES)
def test_invalid_input_trees(valid: Path, tmp_path: Path, what: str) -> None:
    def change(program: Any) -> None:
        call = program["graph_module"]["module_call_graph"][0]
        call["signature"]["in_spec"] = _TREES[what]

    path = exchanged(valid, tmp_path / "bad.pt2", {MODEL: edited(change)})
    with pytest.raises(
        ModelInvalidError, match=r"inputs are nested|not valid JSON|nested too deeply"
    ):
        load_pt2(path)


def _no_nodes(program: Any) -> None:
    del _graph(program)["nodes"]


def _no_operator(program: Any) -> None:
    del _graph(program)["nodes"][0]["target"]


@pytest.mark.parametrize("change", [_no_nodes, _no_operator])
def test_incomplete_graph(valid: Path, tmp_path: Path, change: Change) -> None:
    path = exchanged(valid, tmp_path / "bad.pt2", {MODEL: edited(change)})
    with pytest.raises(ModelInvalidError, match="torch cannot load"):
        load_pt2(path)


def test_weight_larger_than_its_bytes(valid: Path, tmp_path: Path) -> None:
    def widen(table: Any) -> None:
        table["config"]["conv.bias"]["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}]

    path = exchanged(valid, tmp_path / "bad.pt2", {_WEIGHTS: edited(widen)})
    with pytest.raises(ModelInvalidError, match="torch cannot load"):
        load_pt2(path)


def test_other_archives(tmp_path: Path) -> None:
    memory = io.BytesIO()
    torch.save(Small().state_dict(), memory)
    path = tmp_path / "weights.pt2"
    path.write_bytes(memory.getvalue())
    with pytest.raises(ModelUnsafeError, match="send the ONNX file"):
        load_pt2(path)


@pytest.mark.parametrize(
    "text",
    [
        "s0",
        "2*s0 + 1",
        "(s77 - 1)//2 + 1",
        "Max(1, s0 % 4)",
        "Symbol('s77', positive=True, integer=True)",
        "Add(Mul(Integer(-1), Symbol('s0')), Integer(3))",
        "Pow(Symbol('u3', integer=True), Integer(2))",
    ],
)
def test_symbolic_sizes(text: str) -> None:
    assert clean_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "__import__('os').system('id')",
        "s0.__class__",
        "s0 if s0 else s1",
        "(lambda: 1)()",
        "[s0 for s0 in (1,)]",
        "9**9**9",
        "Pow(9, Integer(999999999))",
        "Pow(Integer(9), Pow(9, 9))",
        "Symbol('__import__')",
        "Symbol('s0', cls=open)",
        "Symbol('s0', **{})",
        "eval('1')",
        "Max(*s0)",
        "Function('f')(s0)",
        "f'{s0}'",
        "'s0'",
        "s0; s1",
        "s0 == s1",
        "1e400",
        "True",
        "9" * 40,
        "(" * 500 + "s0" + ")" * 500,
    ],
)
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(ModelUnsafeError, match="symbolic size"):
        clean_expression(text)
