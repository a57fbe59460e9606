"""bnrecal_client: send a model and a stream of batches to a bnrecal server, get ONNX back.

Example::

    from bnrecal_client import Client

    with Client("http://127.0.0.1:8000") as client:
        result = client.recalibrate("model.onnx", batches)
    result.save("recalibrated.onnx")

Importing this package loads neither torch nor onnx nor bn_ops; names load on first use.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnrecal_client._http.retry import Backoff, RetryPolicy
    from bnrecal_client.async_client import AsyncClient
    from bnrecal_client.client import Client
    from bnrecal_client.errors import (
        AccessError,
        BatchError,
        BnrecalError,
        ConflictError,
        ImportFailed,
        InputError,
        Interrupted,
        LimitError,
        ModelError,
        NotFoundError,
        OptionError,
        Problem,
        RecalibrationCancelled,
        RecalibrationFailed,
        ServerError,
        ServerUnreachable,
        TimedOut,
        UnexpectedResponseError,
        VerdictError,
    )
    from bnrecal_client.images import Images
    from bnrecal_client.jobs import AsyncJob, Job
    from bnrecal_client.models import (
        Import,
        ImportedObject,
        LayerInfo,
        ModelDescription,
        Progress,
        Recalibration,
        ReportDetails,
        SkippedSample,
        StoredBatch,
        Stream,
        TensorInfo,
        Verdict,
        VerdictReason,
    )
    from bnrecal_client.options import EstimatorForm, Method, PreprocessForm
    from bnrecal_client.report import Report
    from bnrecal_client.result import Result

__version__ = "0.2.0"

__all__ = [
    "AccessError",
    "AsyncClient",
    "AsyncJob",
    "Backoff",
    "BatchError",
    "BnrecalError",
    "Client",
    "ConflictError",
    "EstimatorForm",
    "Images",
    "Import",
    "ImportFailed",
    "ImportedObject",
    "InputError",
    "Interrupted",
    "Job",
    "LayerInfo",
    "LimitError",
    "Method",
    "ModelDescription",
    "ModelError",
    "NotFoundError",
    "OptionError",
    "PreprocessForm",
    "Problem",
    "Progress",
    "Recalibration",
    "RecalibrationCancelled",
    "RecalibrationFailed",
    "Report",
    "ReportDetails",
    "Result",
    "RetryPolicy",
    "ServerError",
    "ServerUnreachable",
    "SkippedSample",
    "StoredBatch",
    "Stream",
    "TensorInfo",
    "TimedOut",
    "UnexpectedResponseError",
    "Verdict",
    "VerdictError",
    "VerdictReason",
    "__version__",
]

# The public names of each module.
_NAMES = {
    "_http.retry": "Backoff RetryPolicy",
    "async_client": "AsyncClient",
    "client": "Client",
    "errors": (
        "AccessError BatchError BnrecalError ConflictError ImportFailed InputError Interrupted "
        "LimitError ModelError NotFoundError OptionError Problem RecalibrationCancelled "
        "RecalibrationFailed ServerError ServerUnreachable TimedOut "
        "UnexpectedResponseError VerdictError"
    ),
    "images": "Images",
    "jobs": "AsyncJob Job",
    "models": (
        "Import ImportedObject LayerInfo ModelDescription Progress Recalibration "
        "ReportDetails SkippedSample StoredBatch Stream TensorInfo Verdict VerdictReason"
    ),
    "options": "EstimatorForm Method PreprocessForm",
    "report": "Report",
    "result": "Result",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


# What is logged is shown only where the program configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bnrecal_client' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
