"""Which waiting layer to settle when batches stand at different ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bn_ops.core.statistics import LayerName

__all__ = ["VisitOrder"]


class VisitOrder:
    """What is known of the order in which batches reach layers.

    Before anything is known the order of registration decides, which is the order of execution in
    most code. What a pass has seen decides in the next one.
    """

    def __init__(self, registered: Iterable[LayerName]) -> None:
        self._rank = {name: rank for rank, name in enumerate(registered)}
        self._after: dict[LayerName, set[LayerName]] = {}

    def learn(self, visited: Sequence[LayerName]) -> None:
        """Take note of the order in which one batch reached its layers."""
        for position, name in enumerate(visited):
            self._after.setdefault(name, set()).update(visited[position + 1 :])

    def first(self, waiting: Iterable[LayerName]) -> LayerName:
        """Choose the layer that none of the other waiting ones leads to, as far as known."""
        names = sorted(waiting, key=self._rank.__getitem__)
        free = [
            name
            for name in names
            if not any(name in self._reachable(other) for other in names if other != name)
        ]
        # None is free where batches go round in opposite directions.
        return free[0] if free else names[0]

    def _reachable(self, start: LayerName) -> set[LayerName]:
        found: set[LayerName] = set()
        open_ends = [start]
        while open_ends:
            for name in self._after.get(open_ends.pop(), set()) - found:
                found.add(name)
                open_ends.append(name)
        return found
