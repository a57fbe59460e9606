"""Check batches as they come in, one after the other, for one recalibration.

Standard input is a socket that the server made: each line names a batch, and the batch's open file
comes with it. The sandbox lets this process open nothing but its own libraries, so it sees the
batches that it is handed and no others.
"""

from __future__ import annotations

import json
import os
import socket
from typing import IO, Any

from bn_ops.core.signature import check_batch
from bn_ops.errors import BatchError, BnOpsError
from service.errors import BatchMalformedError, ServiceError
from service.workers.child.channel import Channel
from service.workers.child.read_batches import BatchReader
from service.workers.messages import Spec

STDIN = 0
LINE_BYTES = 4096


def serve(spec: Spec, channel: Channel) -> None:
    """Answer one line for each batch until the server closes its end."""
    reader = BatchReader.of(spec)
    channel.done({})  # the first answer: loaded, and shut in
    with socket.socket(fileno=os.dup(STDIN)) as requests:
        while True:
            line, handles, _, _ = socket.recv_fds(requests, LINE_BYTES, 1)
            if not line:
                return
            with os.fdopen(handles[0], "rb") as file:
                _answer(json.loads(line), file, reader, channel)


def _answer(
    request: dict[str, Any], file: IO[bytes], reader: BatchReader, channel: Channel
) -> None:
    try:
        samples = count(file, request["format"], reader, batch=request["batch"])
    except BnOpsError as error:
        channel.refuse(error.code, error.message, error.details())
    except ServiceError as error:
        channel.refuse(error.code, error.message, error.details)
    except MemoryError:
        channel.refuse("resource-limit", "the batch needs more memory than a worker has", {})
    except Exception as error:  # noqa: BLE001 - libraries raise anything on hostile bytes
        text = f"the batch cannot be read as {request['format']} ({type(error).__name__})"
        channel.refuse(BatchMalformedError.code, text, {})
    else:
        channel.done({"samples": samples})


def count(file: IO[bytes], kind: str, reader: BatchReader, *, batch: int | None) -> int:
    """Read a batch as a run would, check every value, and return its number of samples.

    Raises:
        BatchMalformedError: it is no file of its format.
        ImageError: it holds an image that cannot be used.
        BatchError: it does not fit the model, or holds NaN or Inf.
    """
    samples = 0
    for arrays in reader.read(file, kind, batch=batch):
        samples += check_batch(reader.inputs, arrays, batch=batch)
    if not samples:
        raise BatchError("the batch holds no sample", batch=batch)
    return samples
