"""Steps of a worker: read the task, apply the sandbox, do the task, answer.

The order matters: first the tie to the server's lifetime and the resource limits, then the sandbox
while the process still has one thread, then the libraries, and last the untrusted file.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping

from bn_ops.errors import BnOpsError
from service.errors import ServiceError, WorkerError
from service.storage.capacity import is_disk_full, worker_full
from service.workers.child import resource_limits, sandbox
from service.workers.child.channel import Channel
from service.workers.child.deferred_imports import defer_sympy
from service.workers.messages import StoredBatchRef, WorkerTask


def main() -> int:
    """Do one task; the exit status is 0 if an answer was given."""
    channel = Channel()
    task = WorkerTask.from_line(sys.stdin.buffer.readline())
    resource_limits.exit_with_parent(task.parent)
    resource_limits.prefer_as_oom_victim()
    resource_limits.apply(task.limits)
    expected = 0 if task.kind == "assemble" else task.total + task.source_total
    lines = [sys.stdin.buffer.readline() for _ in range(expected)]
    batches = [StoredBatchRef.from_line(line) for line in lines]
    try:
        status = sandbox.apply(task)
        _work(task, batches, channel, status)
    except BnOpsError as error:
        channel.refuse(error.code, error.message, error.details())
    except ServiceError as error:
        channel.refuse(error.code, error.message, error.details)
    except MemoryError:
        text = f"the task needs more memory than the worker's {task.limits.memory_bytes} bytes"
        channel.refuse("resource-limit", text, {})
    except Exception as error:  # noqa: BLE001 - a full disk, or an internal error
        _refuse(channel, error)
    return 0


def _refuse(channel: Channel, error: Exception) -> None:
    if is_disk_full(error):
        full = worker_full()
        channel.refuse(full.code, full.message, {})
        return
    # An internal error: another attempt would end the same way.
    traceback.print_exc()
    text = f"the worker failed ({type(error).__name__}); the server's log has more"
    channel.refuse(WorkerError.code, text, {})


def _work(
    task: WorkerTask, batches: list[StoredBatchRef], channel: Channel, status: dict[str, bool]
) -> None:
    if task.kind == "report_sandbox":
        channel.done(status)
        return
    if task.kind == "validate":
        from service.workers.child import validate  # noqa: PLC0415 - numpy loads in the sandbox

        validate.serve(task, channel)
        return
    if task.kind == "convert":
        from service.workers.child import convert  # noqa: PLC0415 - onnx loads in the sandbox

        convert.convert(task, status)
        channel.done({})
        return
    if task.kind in {"preview", "predict"}:
        from service.workers.child import predict, preview  # noqa: PLC0415 - onnx loads in the sandbox

        channel.done(preview.preview(task) if task.kind == "preview" else predict.predict(task))
        return
    # onnx and onnxruntime are loaded inside the sandbox.
    defer_sympy()
    from service.workers.child import shard  # noqa: PLC0415

    if task.kind == "measure_shard":
        shard.measure(task, batches, channel)
        return
    channel.done(_result(task, batches, channel))


def _result(
    task: WorkerTask, batches: list[StoredBatchRef], channel: Channel
) -> Mapping[str, object]:
    """Do a task that runs a model, and return its result."""
    from service.workers.child import inspect_model, recalibrate, shard  # noqa: PLC0415

    if task.kind == "inspect":
        return inspect_model.inspect(task)
    if task.kind == "try_execution":
        return shard.trial(task, batches)
    if task.kind == "assemble":
        return recalibrate.assemble(task, channel)
    return recalibrate.recalibrate(task, batches, channel)
