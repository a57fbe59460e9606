"""One function per call of the HTTP API, which builds the request; see `messages.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

from bnrecal_client._http.messages import Body, Request, content_digest
from bnrecal_client.errors import OptionError
from bnrecal_client.models import ReportDetails
from bnrecal_client.options import Options

__all__ = [
    "StreamName",
    "cancel",
    "create",
    "delete",
    "delete_model",
    "get_model",
    "import_objects",
    "list_models",
    "list_recalibrations",
    "model_file",
    "put_batch",
    "readiness",
    "received",
    "report",
    "report_html",
    "start",
    "statistics",
    "status",
    "upload",
]

_RECALIBRATIONS = "/v1/recalibrations"
_PAGE = "1000"
_MAX_WAIT_S = 20.0
"""The server rejects longer waits, in seconds."""

StreamName = Literal["batches", "source-batches"]
"""Last part of the path of each stream's batches."""


def upload(body: Body, sha256: str) -> Request:
    """Upload a model; its id is the digest."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Digest": content_digest(sha256),
    }
    return Request(method="POST", path="/v1/models", headers=headers, body=body)


def get_model(model_id: str) -> Request:
    """Describe a model."""
    return Request(method="GET", path=_model(model_id))


def list_models(after: str | None) -> Request:
    """List one page of models."""
    return Request(method="GET", path="/v1/models", params=_page(after))


def delete_model(model_id: str) -> Request:
    """Delete a model."""
    return Request(method="DELETE", path=_model(model_id))


def create(model_id: str, options: Options, *, key: str) -> Request:
    """Create a recalibration; repeated with the same key, it returns the same recalibration."""
    value: dict[str, object] = {
        "model": model_id,
        "method": options.method,
        "layers": None if options.layers is None else list(options.layers),
    }
    if options.estimator is not None:
        value["estimator"] = options.estimator
    if options.preprocess is not None:
        value["preprocess"] = dict(options.preprocess)
    if options.allow_mismatch:  # a server that is older than the check does not know the option
        value["allow_mismatch"] = True
    if options.name:  # a server that is older than names does not know the member
        value["name"] = options.name
    if options.tags:
        value["tags"] = list(options.tags)
    if options.opset is not None:
        value["opset"] = options.opset
    if options.target is not None:
        value["target"] = options.target
    if options.max_samples is not None:
        value["max_samples"] = options.max_samples
    if options.seed:
        value["seed"] = options.seed
    return _post_json(_RECALIBRATIONS, value, {"Idempotency-Key": key})


def list_recalibrations(search: str | None, after: str | None) -> Request:
    """List one page of recalibrations, or of those that contain a text, the newest first."""
    found = {} if search is None else {"search": search}
    params = {**_page(after), "order": "newest", **found}
    return Request(method="GET", path=_RECALIBRATIONS, params=params)


def readiness() -> Request:
    """Return whether the server can work, and the sandbox of its workers."""
    return Request(method="GET", path="/readyz")


def status(recalibration_id: str, *, wait_s: float = 0.0) -> Request:
    """Describe a recalibration.

    Args:
        recalibration_id: its id.
        wait_s: how long the server waits for the end before it responds, in seconds.
    """
    params = {"wait": str(min(wait_s, _MAX_WAIT_S))} if wait_s else {}
    return Request(method="GET", path=_recalibration(recalibration_id), params=params)


def put_batch(
    recalibration_id: str,
    index: int,
    body: bytes,
    sha256: str,
    *,
    media_type: str,
    stream: StreamName,
) -> Request:
    """Store one batch of a stream under its index."""
    headers = {
        "Content-Type": media_type,
        "Content-Digest": content_digest(sha256),
    }
    path = f"{_recalibration(recalibration_id)}/{stream}/{index}"
    return Request(method="PUT", path=path, headers=headers, body=body)


def import_objects(
    recalibration_id: str,
    urls: tuple[str, ...],
    *,
    first: int,
    compare: bool,
    stream: StreamName,
) -> Request:
    """Import objects as the batches of a stream; repeated, it continues."""
    value: dict[str, object] = {"urls": list(urls), "first": first, "compare": compare}
    return _post_json(f"{_recalibration(recalibration_id)}/{stream}:import", value, {})


def received(recalibration_id: str, stream: StreamName, after: str | None) -> Request:
    """List one page of the stored batches of a stream."""
    path = f"{_recalibration(recalibration_id)}/{stream}"
    return Request(method="GET", path=path, params=_page(after))


def start(
    recalibration_id: str,
    batches: int,
    source_batches: int,
    details: ReportDetails | None = None,
) -> Request:
    """Seal the streams at these numbers of batches and queue the run."""
    value: dict[str, object] = {"batches": batches}
    if source_batches:  # a server that is older than the source stream does not know the member
        value["source_batches"] = source_batches
    if details is not None and (known := details.to_json()):
        value["report"] = known
    return _post_json(_recalibration(recalibration_id) + "/start", value, {})


def cancel(recalibration_id: str) -> Request:
    """Cancel a recalibration."""
    return Request(method="POST", path=_recalibration(recalibration_id) + "/cancel")


def delete(recalibration_id: str) -> Request:
    """Delete a recalibration and everything uploaded for it."""
    return Request(method="DELETE", path=_recalibration(recalibration_id))


def model_file(recalibration_id: str, variant: str) -> Request:
    """Fetch the recalibrated ONNX file, `folded` or `unfolded`."""
    path = _recalibration(recalibration_id) + "/model"
    return Request(method="GET", path=path, params={"variant": variant})


def statistics(recalibration_id: str) -> Request:
    """Fetch the new running statistics as safetensors."""
    return Request(method="GET", path=_recalibration(recalibration_id) + "/statistics")


def report(recalibration_id: str) -> Request:
    """Fetch the report as JSON."""
    return _report(recalibration_id, "application/json")


def report_html(recalibration_id: str) -> Request:
    """Fetch the report as an HTML page."""
    return _report(recalibration_id, "text/html")


def _model(model_id: str) -> str:
    return f"/v1/models/{quote(model_id, safe='')}"


def _recalibration(recalibration_id: str) -> str:
    # Quoted: an id from a command line must not lead to another path of the server.
    return f"{_RECALIBRATIONS}/{quote(recalibration_id, safe='')}"


def _report(recalibration_id: str, media_type: str) -> Request:
    path = _recalibration(recalibration_id) + "/report"
    return Request(method="GET", path=path, headers={"Accept": media_type})


def _page(after: str | None) -> dict[str, str]:
    return {"limit": _PAGE} if after is None else {"limit": _PAGE, "after": after}


def _post_json(path: str, value: Mapping[str, object], headers: Mapping[str, str]) -> Request:
    try:
        body = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"the options {dict(value)!r} cannot be written as JSON: {error}"
        ) from error
    return Request(
        method="POST",
        path=path,
        headers={"Content-Type": "application/json", **headers},
        body=body.encode("utf-8"),
    )
