"""What is particular to the report of a torch run: order of execution, and residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bn_ops.core.frontier import Settlement
from bn_ops.core.statistics import LayerName
from bn_ops.diagnostics.build_report import layer_reports
from bn_ops.diagnostics.report import LayerReport
from bn_ops.engines.torch.selected_layers import ChosenLayers
from bn_ops.engines.torch.shared_layers import Residual

__all__ = ["stranger_warnings", "torch_layer_reports", "unsettled_warnings"]


def torch_layer_reports(
    run: ChosenLayers,
    settled: Mapping[LayerName, Settlement],
    residuals: Mapping[LayerName, Residual],
) -> tuple[LayerReport, ...]:
    """Report layers in the order of execution; those that nothing reached come last."""
    order = {name: rank for rank, name in enumerate(settled)}
    infos = sorted(run.infos.values(), key=lambda info: order.get(info.name, len(order)))
    reports = layer_reports(infos, frozenset(run.chosen), settled)
    return tuple(
        replace(
            report,
            residual_mean=residuals[report.name].mean,
            residual_var=residuals[report.name].var,
        )
        if report.name in residuals
        else report
        for report in reports
    )


def stranger_warnings(strangers: Sequence[str]) -> list[str]:
    """Warn of functional calls that the run has left alone."""
    if not strangers:
        return []
    return [
        (
            "torch.nn.functional.batch_norm was also called with statistics that belong to no "
            f"layer of this run and stay as they are: {', '.join(strangers)}; only calls that the "
            "first batch reaches, with registered buffers, are layers"
        )
    ]


def unsettled_warnings(residuals: Mapping[LayerName, Residual], tolerance: float) -> list[str]:
    """Return the warning about shared layers that still move, if there are any."""
    moving = [name for name, r in residuals.items() if max(r.mean, r.var) > tolerance]
    if not moving:
        return []
    return [
        (
            "layers that are called several times per forward still move by more than "
            f"{tolerance:g}: {', '.join(map(repr, moving))}; raise shared_passes, or leave them out"
        )
    ]
