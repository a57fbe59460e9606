"""KServe's REST client without the rest of KServe.

Its package loads a Kubernetes client when it is imported; the module of the REST client does not
need it. So the package is entered without running its `__init__`; the client itself runs as it was
published.
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
