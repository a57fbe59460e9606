"""The policy for untrusted models, without a server."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from bn_ops.errors import ModelUnsupportedError
from service.workers.child import model_policy as policy
from tests.support.hostile_models import MODELS, bn_model, function, nested, with_functions


def check(content: bytes, *, max_nodes: int = policy.MAX_NODES) -> None:
    policy.check_model(onnx.ModelProto.FromString(content), max_nodes=max_nodes)


def test_valid_models_pass() -> None:
    check(bn_model())
    check(nested(3))
    chain = [function(f"f{n}", [("own", f"f{n + 1}")] * 2) for n in range(5)]
    check(with_functions(*chain, function("f5", [("", "Relu")])))


def test_functions_count_inlined_nodes() -> None:
    """f0 inlines to 2**5 Relu nodes, next to one BatchNormalization."""
    chain = [function(f"f{n}", [("own", f"f{n + 1}")] * 2) for n in range(5)]
    content = with_functions(*chain, function("f5", [("", "Relu")]))
    check(content, max_nodes=33)
    with pytest.raises(ModelUnsupportedError, match="33 nodes"):
        check(content, max_nodes=32)


def test_foreign_domain_is_rejected() -> None:
    evil = helper.make_node("Evil", ["n"], ["y"], domain="evil")
    with pytest.raises(ModelUnsupportedError, match=r"'Evil'.*'evil'"):
        check(bn_model(extra=[evil], opsets=[("", 17), ("evil", 1)]))


@pytest.mark.parametrize("depth", [policy.MAX_DEPTH - 1, policy.MAX_DEPTH + 1])
def test_subgraph_depth_is_limited(depth: int) -> None:
    if depth < policy.MAX_DEPTH:
        check(nested(depth))
        return
    with pytest.raises(ModelUnsupportedError, match="deep"):
        check(nested(depth))


def test_corpus_covers_the_policy() -> None:
    assert sum("model-unsupported" in one.allowed for one in MODELS) >= 7
