"""Content negotiation between JSON and HTML."""

from __future__ import annotations


def prefers_html(accept: str | None) -> bool:
    """Return whether an Accept header ranks `text/html` above `application/json`."""
    return _quality(accept, "text/html") > _quality(accept, "application/json")


def _quality(accept: str | None, wanted: str) -> float:
    """Return the quality of a media type; the most specific matching range decides."""
    if accept is None or not accept.strip():
        return 1.0
    best = (-1, 0.0)
    for member in accept.split(","):
        kind, *parameters = (part.strip() for part in member.split(";"))
        rank = _specificity(kind.lower(), wanted)
        if rank > best[0]:
            best = (rank, _weight(parameters))
    return best[1]


def _specificity(kind: str, wanted: str) -> int:
    if kind == wanted:
        return 2
    if kind == wanted.partition("/")[0] + "/*":
        return 1
    return 0 if kind == "*/*" else -1


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
