"""Cause and fix of every error code; `tools.site_docs` writes them to the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CAUSES", "CLIENT_CAUSES", "Cause"]


class Cause(NamedTuple):
    """Why an error occurs, and what to do about it."""

    cause: str
    fix: str


CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        # Requests.
        "request-error": Cause(
            "The request is invalid in a way that has no code of its own.",
            "Read `detail`, and compare the request with the [HTTP reference](http.md).",
        ),
        "request-malformed": Cause(
            "The connection carried bytes that are not an HTTP request.",
            "Check that client and proxy speak HTTP/1.1, without TLS unless a proxy removes it.",
        ),
        "header-too-large": Cause(
            "The request line or the headers exceed the server's limit.",
            "Remove cookies and other headers that a proxy adds.",
        ),
        "header-timeout": Cause(
            "The headers did not arrive in time.",
            "Repeat the request; look for a proxy or a network that stalls.",
        ),
        "request-invalid": Cause(
            "A parameter or a member of the JSON body is missing, unknown or out of range.",
            "`detail` names it. Correct it; the [HTTP reference](http.md) lists all members.",
        ),
        "not-found": Cause(
            "There is no such resource, or the token does not own it.",
            "Check the id and the token. Recalibrations and unused models expire.",
        ),
        "method-not-allowed": Cause(
            "The route exists, but not with this method.",
            "Use a method of the header `Allow`.",
        ),
        "precondition-failed": Cause(
            "`If-Match` names another version of the file.",
            "Fetch the resource again, and use its current `ETag`.",
        ),
        "media-type-unsupported": Cause(
            "The content type or the content encoding is not supported by the route.",
            "Send a content type that `detail` lists, without compression.",
        ),
        "too-large": Cause(
            "The body is larger than the limit of its kind.",
            "Send smaller batches, or raise the limit that `detail` names.",
        ),
        "quota-exceeded": Cause(
            "The recalibration or the token has reached its quota.",
            "Delete what is no longer needed, or ask the operator for a larger quota.",
        ),
        "body-timeout": Cause(
            "The body arrived more slowly than the server waits.",
            "Repeat the request; send smaller batches over a slow network.",
        ),
        "body-incomplete": Cause(
            "The connection ended before the whole body had arrived.",
            "Repeat the request with the same index; nothing was stored.",
        ),
        "digest-mismatch": Cause(
            "The body is not the one whose digest the request names.",
            "Repeat the request. If it fails again, the sender computes the digest of other bytes.",
        ),
        "range-unsatisfiable": Cause(
            "The requested range begins beyond the end of the file.",
            "Ask for the file's size with `HEAD`, and download again from the start.",
        ),
        "unauthenticated": Cause(
            "The request has no valid token.",
            "Send `Authorization: Bearer TOKEN`; the client reads `BNRECAL_TOKEN`.",
        ),
        "forbidden": Cause(
            "The token is valid but does not permit this request.",
            "Use a token with the needed rights, such as one created with `--admin`.",
        ),
        "host-refused": Cause(
            "A server without tokens was addressed by a name other than that of the machine.",
            "Use 127.0.0.1 or localhost, or set up tokens.",
        ),
        # Batches as files.
        "batch-malformed": Cause(
            "The body is not a file of the format that its content type names.",
            "Check the content type, and that the file opens on your machine.",
        ),
        "batch-unpacked-too-large": Cause(
            "An archive or an image is larger than the limit when it is unpacked.",
            "Split the archive, or reduce the images.",
        ),
        "preprocess-missing": Cause(
            "Images were sent to a recalibration that was opened without `preprocess`.",
            "Open the recalibration with `preprocess`; see [images](../images.md).",
        ),
        # States.
        "state-error": Cause(
            "The state of the resource does not allow the request.",
            "Read the resource's state first.",
        ),
        "transition-refused": Cause(
            "The recalibration's state does not allow this step, such as cancelling an ended run.",
            "Read its state; a recalibration that has ended is only read or deleted.",
        ),
        "recalibration-not-open": Cause(
            "The stream was sealed when the run was started.",
            "Open another recalibration for more batches.",
        ),
        "recalibration-not-finished": Cause(
            "The run has not ended yet.",
            "Wait with `GET …?wait=20`, then fetch the result.",
        ),
        "recalibration-failed": Cause(
            "The run failed or was cancelled, so it has no result.",
            "The member `error` of the recalibration says why.",
        ),
        "batch-conflict": Cause(
            "Another batch is stored under this index.",
            "Use the next index; a repeated batch must have the same bytes.",
        ),
        "batches-missing": Cause(
            "The stream has gaps.",
            "Send the indices in `missing`, and start again.",
        ),
        "batches-unexpected": Cause(
            "Batches are stored at or beyond the announced number.",
            "Start with the number of batches that were sent.",
        ),
        "idempotency-key-reused": Cause(
            "The idempotency key belongs to another request.",
            "Use a new key for each new request.",
        ),
        "token-exists": Cause(
            "A token of this name exists.", "Choose another name, or delete the old token."
        ),
        "model-in-use": Cause(
            "A recalibration that has not ended uses the model.",
            "Wait until it has ended, or delete it first.",
        ),
        # Capacity.
        "capacity-error": Cause(
            "The server lacks a resource at the moment.", "Repeat the request after `Retry-After`."
        ),
        "storage-full": Cause(
            "The disk is full, or the total limit is reached.",
            "Free space or raise the limit; the client repeats the request.",
        ),
        "storage-failed": Cause(
            "A write or its flush to disk failed; nothing was acknowledged.",
            "Check the disk, then restart the server; `/readyz` names the part.",
        ),
        "ledger-unavailable": Cause(
            "The PostgreSQL database of the ledger cannot be reached; nothing was acknowledged.",
            "Repeat the request after `Retry-After`; the server connects again by itself.",
        ),
        "overloaded": Cause(
            "Too many requests are in progress.",
            "Repeat the request after `Retry-After`; use fewer connections.",
        ),
        "shutting-down": Cause(
            "The server is shutting down.", "Repeat the request when it has started again."
        ),
        # The server and its workers.
        "service-error": Cause(
            "The server failed in a way that has no code of its own.",
            "Look up the request's id in the log, and report the error.",
        ),
        "internal": Cause(
            "A bug in the server.", "Look up the request's id in the log, and report the error."
        ),
        "start-refused": Cause(
            "The server cannot start: a port or data folder in use, or an invalid setting.",
            "The message names it; stop the other server, or change the setting.",
        ),
        "worker-error": Cause(
            "The worker process could not be started, or did not answer.",
            "Repeat the request. If it persists, look for `worker-failed` in the log.",
        ),
        "worker-refused": Cause(
            "The worker rejected the input with a code that the server does not know.",
            "Read `detail`; check that the server and its packages have one version.",
        ),
        "worker-died": Cause(
            "The worker crashed several times, most often for lack of memory.",
            "Raise `memory_bytes` or `BNRECAL_WORKER_MEMORY_BYTES`, or send smaller batches.",
        ),
        "worker-deadline": Cause(
            "The run exceeded its time limit.",
            "Raise the limit, use fewer samples, or a faster machine.",
        ),
        # bn_ops: data and options.
        "error": Cause("An error of bn_ops without a code of its own.", "Read the message."),
        "input-invalid": Cause("The data or an option is invalid.", "Read the message."),
        "option-invalid": Cause(
            "An option has an unknown or impossible value.",
            "The message lists the valid values.",
        ),
        "layer-pattern-unmatched": Cause(
            "A pattern of `layers` matches no layer.",
            "`bnrecal inspect MODEL` lists the names.",
        ),
        "stream-empty": Cause(
            "The stream holds no sample.",
            "Check the path or the loader; an iterator can be read only once.",
        ),
        "input-mismatch": Cause(
            "The first samples are too far from what the model was trained on for any new domain.",
            "Apply the preprocessing in `suggestion`; see [the input check](../input-check.md). "
            "`allow_mismatch` continues in spite of it.",
        ),
        "shard-invalid": Cause(
            "A [shard](../sharding.md) received damaged bytes, or statistics of another level than "
            "the one that it measured last.",
            "Send each message whole and in order; open the shard again and replay the levels.",
        ),
        "shard-mismatch": Cause(
            "Shards differ in model, layers, options, versions or processor, or two of them hold "
            "samples of the same positions.",
            "The message names the difference. Make the plan from the same file and options "
            "everywhere, and start each shard at the position of its first sample.",
        ),
        "batch-invalid": Cause("One batch is invalid.", "The message names the batch."),
        "batch-input": Cause(
            "A batch has an input that the model lacks, or lacks one that it needs.",
            "Name the arrays as the model's inputs; `bnrecal inspect MODEL` lists them.",
        ),
        "batch-dtype": Cause(
            "The element type differs from that of the model's input.",
            "Convert the array, for example `array.astype('float32')`.",
        ),
        "batch-shape": Cause(
            "The rank or a size differs from that of the model's input.",
            "Check the order of the axes (most models take N, C, H, W) and the image size.",
        ),
        "batch-not-finite": Cause(
            "A batch holds NaN or Inf.",
            'Repair the sample, or leave it out with `on_bad_sample="skip"` or `--skip-bad`.',
        ),
        "image-invalid": Cause(
            "An image cannot be decoded, is truncated, or is too large.",
            'Repair the file, or leave it out with `on_bad_sample="skip"` or `--skip-bad`.',
        ),
        # bn_ops: the model.
        "model-error": Cause("The model cannot be used.", "Read the message."),
        "model-invalid": Cause(
            "The file is not an ONNX model, or it is damaged.",
            "Check it with `onnx.checker.check_model`, and export it again.",
        ),
        "external-data": Cause(
            "A file with tensors of the model is missing, too short, or outside its folder.",
            "Keep all files together; send them to a server as one zip archive.",
        ),
        "model-unsupported": Cause(
            "The model uses something that this package does not support.",
            "The message names it; export the model with other options.",
        ),
        "model-unsafe": Cause(
            "Loading the file could run code.",
            "Export the model to ONNX, or save it with `torch.export.save`.",
        ),
        "model-without-batchnorm": Cause(
            "The model has no BatchNorm layer.",
            "Pass `source_batches` to insert layers; see [folded models](../folded-models.md).",
        ),
        "model-already-folded": Cause(
            "The exporter has folded BatchNorm into the weights.",
            "Export with `bn_ops.export`, or pass `source_batches`; see "
            "[folded models](../folded-models.md).",
        ),
        "layer-not-finite": Cause(
            "NaN or Inf arises inside the network although the data are finite.",
            "The message names the layer; run the network in float32, and check its weights.",
        ),
        "export-failed": Cause(
            "The exporter of torch does not support the module.",
            "The message has the exporter's reason; simplify `forward`, or export it yourself.",
        ),
        "target-unsupported": Cause(
            "The opset or the deployment target lacks an operator that the model uses.",
            "The message names the operator; choose a newer opset, or see [export](../export.md).",
        ),
        # bn_ops: resources.
        "resource-limit": Cause("A limit of the run was reached.", "Read the message."),
        "spill-limit": Cause(
            "The intermediate tensors fit neither the memory nor the files of the budget.",
            "Raise the `Budget`, or use fewer samples.",
        ),
        "engine-failed": Cause(
            "The runtime (onnxruntime or torch) failed while it ran the model.",
            "The message has the reason; run the model there directly to see it alone.",
        ),
        "cancelled": Cause(
            "The run was cancelled by its caller.", "Nothing was changed; start again if needed."
        ),
        "parity-failed": Cause(
            "The folded model computes other outputs, whichever layers stay unfolded: a bug here.",
            "Keep the unfolded model of `bn_ops.recalibrate`, and report the error.",
        ),
    }
)

# Codes that only the Python client and the command have.
CLIENT_CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        "conflict": Cause(
            "The state of the recalibration does not allow the call, for example with `resume`.",
            "The message says what differs; start a new recalibration.",
        ),
        "import-failed": Cause(
            "The server could not store objects that it was asked to import.",
            "The error's `objects` name each one with its own error; repair them and call again "
            "with `resume`, which reads only what is missing.",
        ),
        "limit": Cause(
            "The server reported that a limit was reached, with a code that the client lacks.",
            "Read the message; update the client.",
        ),
        "unexpected-response": Cause(
            "The answer does not come from a bnrecal server, or from one of another version.",
            "Check the address, and that client and server have one version.",
        ),
        "server-unreachable": Cause(
            "The server did not answer within the time of the retry policy.",
            "Check the address, and that the server runs; `resume` continues the recalibration.",
        ),
        "timed-out": Cause(
            "The run has not ended within `timeout`; it continues at the server.",
            "Attach to it again with its id, or cancel it.",
        ),
        "do-not-deploy": Cause(
            "The verdict of the finished run is `do-not-deploy`.",
            "Read the reasons in the report; the error holds the result.",
        ),
    }
)
