"""Import KServe's REST client without the rest of KServe.

The package imports a Kubernetes client, which the module of the REST client does not need, so the
module is imported without running the `__init__` of the package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def load() -> tuple[Any, Any]:
    """Return the modules of the REST client and of its requests."""
    if "kserve" not in sys.modules:
        found = importlib.util.find_spec("kserve")
        assert found is not None
        package = ModuleType("kserve")
        package.__path__ = list(found.submodule_search_locations or [])
        sys.modules["kserve"] = package
    client = importlib.import_module("kserve.inference_client")
    return client, importlib.import_module("kserve.protocol.infer_type")
