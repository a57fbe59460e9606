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
    from bnrecal_client._http.retry_policy import Backoff as Backoff
    from bnrecal_client._http.retry_policy import RetryPolicy as RetryPolicy
    from bnrecal_client.async_client import AsyncClient as AsyncClient
    from bnrecal_client.client import Client as Client
    from bnrecal_client.errors import AccessError as AccessError
    from bnrecal_client.errors import BatchError as BatchError
    from bnrecal_client.errors import BnrecalError as BnrecalError
    from bnrecal_client.errors import ConflictError as ConflictError
    from bnrecal_client.errors import InputError as InputError
    from bnrecal_client.errors import Interrupted as Interrupted
    from bnrecal_client.errors import LimitError as LimitError
    from bnrecal_client.errors import ModelError as ModelError
    from bnrecal_client.errors import NotFoundError as NotFoundError
    from bnrecal_client.errors import OptionError as OptionError
    from bnrecal_client.errors import Problem as Problem
    from bnrecal_client.errors import RecalibrationCancelled as RecalibrationCancelled
    from bnrecal_client.errors import RecalibrationFailed as RecalibrationFailed
    from bnrecal_client.errors import ServerError as ServerError
    from bnrecal_client.errors import ServerUnreachable as ServerUnreachable
    from bnrecal_client.errors import TimedOut as TimedOut
    from bnrecal_client.errors import UnexpectedResponseError as UnexpectedResponseError
    from bnrecal_client.errors import VerdictError as VerdictError
    from bnrecal_client.images import Images as Images
    from bnrecal_client.jobs import AsyncJob as AsyncJob
    from bnrecal_client.jobs import Job as Job
    from bnrecal_client.models import LayerInfo as LayerInfo
    from bnrecal_client.models import ModelDescription as ModelDescription
    from bnrecal_client.models import Progress as Progress
    from bnrecal_client.models import Recalibration as Recalibration
    from bnrecal_client.models import ReportDetails as ReportDetails
    from bnrecal_client.models import SkippedSample as SkippedSample
    from bnrecal_client.models import StoredBatch as StoredBatch
    from bnrecal_client.models import Stream as Stream
    from bnrecal_client.models import TensorInfo as TensorInfo
    from bnrecal_client.models import Verdict as Verdict
    from bnrecal_client.models import VerdictReason as VerdictReason
    from bnrecal_client.options import EstimatorForm as EstimatorForm
    from bnrecal_client.options import Method as Method
    from bnrecal_client.options import PreprocessForm as PreprocessForm
    from bnrecal_client.report import Report as Report
    from bnrecal_client.result import Result as Result

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

# Where each public name lives.
_HOME = {
    "AccessError": "bnrecal_client.errors",
    "AsyncClient": "bnrecal_client.async_client",
    "AsyncJob": "bnrecal_client.jobs",
    "Backoff": "bnrecal_client._http.retry_policy",
    "BatchError": "bnrecal_client.errors",
    "BnrecalError": "bnrecal_client.errors",
    "Client": "bnrecal_client.client",
    "ConflictError": "bnrecal_client.errors",
    "Images": "bnrecal_client.images",
    "InputError": "bnrecal_client.errors",
    "Interrupted": "bnrecal_client.errors",
    "EstimatorForm": "bnrecal_client.options",
    "Job": "bnrecal_client.jobs",
    "Method": "bnrecal_client.options",
    "PreprocessForm": "bnrecal_client.options",
    "LayerInfo": "bnrecal_client.models",
    "LimitError": "bnrecal_client.errors",
    "ModelDescription": "bnrecal_client.models",
    "ModelError": "bnrecal_client.errors",
    "NotFoundError": "bnrecal_client.errors",
    "OptionError": "bnrecal_client.errors",
    "RetryPolicy": "bnrecal_client._http.retry_policy",
    "Problem": "bnrecal_client.errors",
    "Progress": "bnrecal_client.models",
    "Recalibration": "bnrecal_client.models",
    "RecalibrationCancelled": "bnrecal_client.errors",
    "RecalibrationFailed": "bnrecal_client.errors",
    "Report": "bnrecal_client.report",
    "Result": "bnrecal_client.result",
    "ServerError": "bnrecal_client.errors",
    "ServerUnreachable": "bnrecal_client.errors",
    "ReportDetails": "bnrecal_client.models",
    "SkippedSample": "bnrecal_client.models",
    "StoredBatch": "bnrecal_client.models",
    "Stream": "bnrecal_client.models",
    "TensorInfo": "bnrecal_client.models",
    "TimedOut": "bnrecal_client.errors",
    "UnexpectedResponseError": "bnrecal_client.errors",
    "Verdict": "bnrecal_client.models",
    "VerdictError": "bnrecal_client.errors",
    "VerdictReason": "bnrecal_client.models",
}


# What is logged is shown only where the program configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bnrecal_client' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
