"""What a stranger's model may be made of, checked without a server."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from bn_ops.errors import ModelUnsupportedError
from service.workers.child import model_policy as policy
from tests.support.hostile_models import MODELS, bn_model, function, nested, with_functions


def check(content: bytes) -> None:
    policy.check_model(onnx.ModelProto.FromString(content))


def test_a_plain_model_and_one_with_functions_of_its_own_pass() -> None:
    check(bn_model())
    check(nested(3))
    chain = [function(f"f{n}", [("own", f"f{n + 1}")] * 2) for n in range(5)]
    check(with_functions(*chain, function("f5", [("", "Relu")])))


def test_functions_count_as_what_they_grow_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 BatchNormalization and f0, which grows to 2**5 times Relu."""
    chain = [function(f"f{n}", [("own", f"f{n + 1}")] * 2) for n in range(5)]
    content = with_functions(*chain, function("f5", [("", "Relu")]))
    monkeypatch.setattr(policy, "MAX_NODES", 33)
    check(content)
    monkeypatch.setattr(policy, "MAX_NODES", 32)
    with pytest.raises(ModelUnsupportedError, match="33 nodes"):
        check(content)


def test_a_domain_is_foreign_unless_the_model_defines_the_function() -> None:
    evil = helper.make_node("Evil", ["n"], ["y"], domain="evil")
    with pytest.raises(ModelUnsupportedError, match=r"'Evil'.*'evil'"):
        check(bn_model(extra=[evil], opsets=[("", 17), ("evil", 1)]))


@pytest.mark.parametrize("depth", [policy.MAX_DEPTH - 1, policy.MAX_DEPTH + 1])
def test_subgraphs_have_a_deepest_level(depth: int) -> None:
    if depth < policy.MAX_DEPTH:
        check(nested(depth))
        return
    with pytest.raises(ModelUnsupportedError, match="deep"):
        check(nested(depth))


def test_what_the_policy_names_is_in_the_corpus() -> None:
    assert sum("model-unsupported" in one.allowed for one in MODELS) >= 7
