"""The worker's course: read the job, shut the doors, do the work, answer.

The order matters. The bond to the server's life and the limits come first, then the sandbox, while
the process still has one thread; only then are the libraries loaded, and last a stranger's file.
"""

from __future__ import annotations

import errno
import sys
import traceback

from bn_ops.errors import BnOpsError
from service.errors import ServiceError, StorageFullError, WorkerError
from service.workers.child import resource_limits as limits
from service.workers.child import sandbox
from service.workers.child.channel import Channel
from service.workers.messages import Piece, Spec


def main() -> int:
    """Do one job; the exit status is 0 whenever an answer was given."""
    channel = Channel()
    spec = Spec.from_line(sys.stdin.buffer.readline())
    limits.die_with(spec.parent)
    limits.be_the_first_to_go()
    limits.apply(spec.limits)
    files = [Piece.from_line(sys.stdin.buffer.readline()) for _ in range(spec.total)]
    try:
        protections = sandbox.enter(spec)
        _work(spec, files, channel, protections)
    except BnOpsError as error:
        channel.refuse(error.code, error.message, error.details())
    except ServiceError as error:
        channel.refuse(error.code, error.message, error.details)
    except MemoryError:
        text = f"the work needs more than the {spec.limits.memory_bytes} bytes that a worker has"
        channel.refuse("resource-limit", text, {})
    except Exception as error:  # noqa: BLE001 - a full disk, or a fault of ours
        _refuse(channel, error)
    return 0


def _refuse(channel: Channel, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        channel.refuse(StorageFullError.code, "no space is left for what the worker writes", {})
        return
    # The same at each attempt.
    traceback.print_exc()
    text = f"the worker failed ({type(error).__name__}); the server's log has more"
    channel.refuse(WorkerError.code, text, {})


def _work(spec: Spec, files: list[Piece], channel: Channel, protections: dict[str, bool]) -> None:
    if spec.kind == "probe":
        channel.done(protections)
        return
    if spec.kind == "check":
        from service.workers.child import validate  # noqa: PLC0415 - numpy loads in the sandbox

        validate.serve(spec, channel)
        return
    if spec.kind == "convert":
        from service.workers.child import convert  # noqa: PLC0415 - onnx loads in the sandbox

        convert.convert(spec, protections)
        channel.done({})
        return
    # Heavy: onnx and onnxruntime are loaded inside the sandbox.
    from service.workers.child import inspect_model, recalibrate  # noqa: PLC0415

    if spec.kind == "describe":
        channel.done(inspect_model.describe(spec))
        return
    recalibrate.adapt(spec, files, channel)
    channel.done({})
