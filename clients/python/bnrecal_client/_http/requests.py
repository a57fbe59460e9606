"""One function per call of the HTTP API: it builds the request, `answers.py` reads the response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from bnrecal_client._http.messages import Body, Request, content_digest
from bnrecal_client.errors import OptionError

__all__ = [
    "cancel",
    "create",
    "delete",
    "delete_model",
    "get_model",
    "list_models",
    "model_file",
    "received",
    "report",
    "report_html",
    "send",
    "start",
    "statistics",
    "status",
    "upload",
]

_RECALIBRATIONS = "/v1/recalibrations"
_PAGE = "1000"
_LONGEST_WAIT_S = 20.0
"""The server refuses to wait longer, in seconds."""


def upload(body: Body, sha256: str) -> Request:
    """Upload a model; its id is the digest."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Digest": content_digest(sha256),
    }
    return Request(method="POST", path="/v1/models", headers=headers, body=body)


def get_model(model: str) -> Request:
    """Describe a model."""
    return Request(method="GET", path=_model(model))


def list_models(after: str | None) -> Request:
    """One page of models."""
    return Request(method="GET", path="/v1/models", params=_page(after))


def delete_model(model: str) -> Request:
    """Delete a model."""
    return Request(method="DELETE", path=_model(model))


def create(
    *,
    model: str,
    method: str,
    estimator: Mapping[str, object],
    layers: Sequence[str] | None,
    preprocess: Mapping[str, object] | None,
    key: str,
) -> Request:
    """Create a recalibration; the key makes a repetition the same recalibration."""
    wanted: dict[str, object] = {
        "model": model,
        "method": method,
        "estimator": dict(estimator),
        "layers": None if layers is None else list(layers),
    }
    if preprocess is not None:
        wanted["preprocess"] = dict(preprocess)
    return _post_json(_RECALIBRATIONS, wanted, {"Idempotency-Key": key})


def status(recalibration: str, *, wait_s: float = 0.0) -> Request:
    """Describe a recalibration.

    Args:
        recalibration: its id.
        wait_s: how long the server waits for its end before it answers, in seconds.
    """
    params = {"wait": str(min(wait_s, _LONGEST_WAIT_S))} if wait_s else {}
    return Request(method="GET", path=_recalibration(recalibration), params=params)


def send(recalibration: str, index: int, body: bytes, sha256: str, media_type: str) -> Request:
    """Store one batch under its index."""
    headers = {
        "Content-Type": media_type,
        "Content-Digest": content_digest(sha256),
    }
    path = _recalibration(recalibration) + f"/batches/{index}"
    return Request(method="PUT", path=path, headers=headers, body=body)


def received(recalibration: str, after: str | None) -> Request:
    """One page of what has arrived."""
    path = _recalibration(recalibration) + "/batches"
    return Request(method="GET", path=path, params=_page(after))


def start(recalibration: str, batches: int) -> Request:
    """Seal the stream at that many batches and queue the run."""
    return _post_json(_recalibration(recalibration) + "/start", {"batches": batches}, {})


def cancel(recalibration: str) -> Request:
    """Stop a run."""
    return Request(method="POST", path=_recalibration(recalibration) + "/cancel")


def delete(recalibration: str) -> Request:
    """Delete a recalibration with everything uploaded for it."""
    return Request(method="DELETE", path=_recalibration(recalibration))


def model_file(recalibration: str, variant: str) -> Request:
    """Fetch the recalibrated ONNX file, `folded` or `unfolded`."""
    path = _recalibration(recalibration) + "/model"
    return Request(method="GET", path=path, params={"variant": variant})


def statistics(recalibration: str) -> Request:
    """Fetch the new running statistics as safetensors."""
    return Request(method="GET", path=_recalibration(recalibration) + "/statistics")


def report(recalibration: str) -> Request:
    """Fetch the report as JSON."""
    return _report(recalibration, "application/json")


def report_html(recalibration: str) -> Request:
    """Fetch the report as a page."""
    return _report(recalibration, "text/html")


def _model(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _recalibration(recalibration: str) -> str:
    # Quoted: an id comes from a command line, and must not name another path of the server.
    return f"{_RECALIBRATIONS}/{quote(recalibration, safe='')}"


def _report(recalibration: str, media_type: str) -> Request:
    path = _recalibration(recalibration) + "/report"
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
