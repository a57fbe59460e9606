"""Public names of the package, and the cost of importing it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import bn_ops
from bn_ops import errors

ROOT = Path(bn_ops.__file__).parent


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a new interpreter and return the imported top-level packages."""
    code = f"import sys; {statement}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    return set(done.stdout.split())


def test_public_names() -> None:
    assert sorted(bn_ops.__all__) == dir(bn_ops)
    for name in bn_ops.__all__:
        assert getattr(bn_ops, name) is not None


@pytest.mark.parametrize(
    ("name", "package"), [("fold", "bn_ops.folding"), ("verify", "bn_ops.verification")]
)
def test_functions_are_not_shadowed_by_packages(name: str, package: str) -> None:
    code = (
        f"import {package}; from {package} import {name} as own; import bn_ops; "
        f"assert bn_ops.{name} is own and callable(own); from bn_ops import {name} as public; "
        "assert public is own"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_no_module_shadows_a_public_name() -> None:
    # The import system would bind the module as an attribute and hide the function.
    modules = {module.name for module in pkgutil.iter_modules(bn_ops.__path__)}
    assert {"folding", "verification"} <= modules
    assert modules.isdisjoint(bn_ops.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bn_ops.nonsense


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import bn_ops, bn_ops.core.signature, bn_ops.errors", {"onnx", "onnxruntime", "torch"}),
        ("from bn_ops import recalibrate, adapt, fold, verify, describe", {"torch"}),
        ("import bn_ops.core.signature", {"fastapi", "service", "apsw", "bnrecal_client"}),
        (
            "from bn_ops import recalibrate, adapt, fold, verify",
            {"fastapi", "service", "apsw", "bnrecal_client"},
        ),
    ],
)
def test_imports_are_light(statement: str, forbidden: set[str]) -> None:
    assert loaded_by(statement).isdisjoint(forbidden)


def test_lazy_import_is_detected() -> None:
    assert "onnx" in loaded_by("import bn_ops; bn_ops.recalibrate")


def test_error_codes_and_documented_tree() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(c, errors.BnOpsError) for c in classes)
    codes = [c.code for c in classes]
    assert len(set(codes)) == len(codes)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in errors.__all__)
