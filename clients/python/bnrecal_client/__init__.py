"""bnrecal_client: send a model and a stream of batches to a bnrecal server, get ONNX back.

Example::

    from bnrecal_client import Client

    with Client("http://127.0.0.1:8000") as client:
        result = client.recalibrate("model.onnx", batches)
    result.save("recalibrated.onnx")

Importing this package loads neither torch nor onnx nor bn_ops.
"""

from bnrecal_client.async_client import AsyncClient, AsyncHandle
from bnrecal_client.backoff import Backoff
from bnrecal_client.client import Client, Handle
from bnrecal_client.errors import (
    AccessError,
    BatchError,
    BnrecalError,
    ConflictError,
    InputError,
    Interrupted,
    LimitError,
    ModelError,
    NotFoundError,
    OptionError,
    RecalibrationCancelled,
    RecalibrationFailed,
    ServerError,
    ServerUnreachable,
    TimedOut,
    UnexpectedAnswerError,
)
from bnrecal_client.problems import Problem
from bnrecal_client.result import Result
from bnrecal_client.settings import Patience
from bnrecal_client.values import (
    LayerInfo,
    ModelDescription,
    Progress,
    Recalibration,
    StoredBatch,
    Stream,
    TensorInfo,
)

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "AsyncClient",
    "AsyncHandle",
    "Backoff",
    "BatchError",
    "BnrecalError",
    "Client",
    "ConflictError",
    "Handle",
    "InputError",
    "Interrupted",
    "LayerInfo",
    "LimitError",
    "ModelDescription",
    "ModelError",
    "NotFoundError",
    "OptionError",
    "Patience",
    "Problem",
    "Progress",
    "Recalibration",
    "RecalibrationCancelled",
    "RecalibrationFailed",
    "Result",
    "ServerError",
    "ServerUnreachable",
    "StoredBatch",
    "Stream",
    "TensorInfo",
    "TimedOut",
    "UnexpectedAnswerError",
    "__version__",
]
