"""Validate the batches of one recalibration as they arrive.

Standard input is a socket: each line describes a batch and comes with the batch's open file. The
sandbox lets this process open only its own libraries, so it sees no batches but these.
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
from service.workers.messages import WorkerTask

STDIN = 0
LINE_BYTES = 4096


def serve(task: WorkerTask, channel: Channel) -> None:
    """Answer with one line for each batch until the server closes its end."""
    reader = BatchReader.of(task)
    channel.done({})  # the first answer: libraries are loaded and the sandbox is in force
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
        channel.refuse("resource-limit", "the batch needs more memory than the worker has", {})
    except Exception as error:  # noqa: BLE001 - libraries raise arbitrary errors on malformed files
        text = f"the batch cannot be read as {request['format']} ({type(error).__name__})"
        channel.refuse(BatchMalformedError.code, text, {})
    else:
        channel.done({"samples": samples})


def count(file: IO[bytes], kind: str, reader: BatchReader, *, batch: int | None) -> int:
    """Read a batch as a run would, check every value, and return its number of samples.

    Raises:
        BatchMalformedError: it is not a file of its format.
        ImageError: an image cannot be used.
        BatchError: it does not fit the model, or holds NaN or Inf.
    """
    samples = 0
    for arrays in reader.read(file, kind, batch=batch):
        samples += check_batch(reader.inputs, arrays, batch=batch)
    if not samples:
        raise BatchError("the batch has no samples", batch=batch)
    return samples
