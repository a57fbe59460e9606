"""The caller's own metric, given as `module:function` on the command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from bnrecal_client._library import Metric
from bnrecal_client.errors import OptionError

__all__ = ["load_metric"]


def load_metric(name: str) -> Metric:
    """Return the function `module:function`; the module is also searched in the current folder.

    Raises:
        OptionError: there is no such function.
    """
    module, _, function = name.partition(":")
    if not (module and function.isidentifier()):
        raise OptionError(f"--metric {name}: write it like module:function")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except AttributeError as error:
        raise OptionError(f"--metric {name}: {module} has no {function}") from error
    except Exception as error:
        raise OptionError(
            f"--metric {name}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise OptionError(f"--metric {name}: {function} is not a function")
    metric: Metric = found
    return metric
