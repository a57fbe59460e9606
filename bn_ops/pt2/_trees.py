"""How a network's inputs and outputs nest: tuples, lists and dicts, and no other class.

torch finds the class of a container by the name in the file and imports modules for some of them.
"""

from __future__ import annotations

import json
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.pt2._archive import strict_json
from bn_ops.pt2._refusal import refused

__all__ = ["clean_tree"]

_SEQUENCES = frozenset({"builtins.tuple", "builtins.list"})
_MAPPINGS = frozenset({"builtins.dict", "collections.OrderedDict"})
_LONGEST = 1 << 20


def clean_tree(text: Any) -> str:
    """Return the JSON text of a tree of tuples, lists and dicts.

    Raises:
        ModelInvalidError: it is no such text.
        ModelUnsafeError: it names another class.
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise ModelInvalidError("the .pt2 file does not say how its inputs nest")
    version, tree = _pair(strict_json(text, "the nesting of inputs"))
    if type(version) is not int:
        raise ModelInvalidError("the .pt2 file does not say how its inputs nest")
    try:
        return json.dumps([version, _node(tree)])
    except RecursionError as error:
        raise ModelInvalidError("the .pt2 file nests its inputs too deep") from error


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, list) or len(found) != len(("version", "tree")):
        raise ModelInvalidError("the .pt2 file does not say how its inputs nest")
    return found[0], found[1]


def _node(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
        raise ModelInvalidError("the .pt2 file does not say how its inputs nest")
    kind, context, children = node["type"], node["context"], node["children_spec"]
    if not isinstance(kind, str | None) or not isinstance(children, list):
        raise ModelInvalidError("the .pt2 file does not say how its inputs nest")
    if kind in _MAPPINGS:
        keys = strict_json(context, "the keys of an input") if isinstance(context, str) else None
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            raise refused("a mapping whose keys are no names", context)
        context = json.dumps(keys)
    elif (kind is not None and kind not in _SEQUENCES) or context not in (None, "null"):
        raise refused("an input or output of another class", kind)
    return {
        "type": kind,
        "context": context,
        "children_spec": [_node(child) for child in children],
    }
