"""Exact BatchNorm recalibration, folding and verification.

Functions take arrays, torch modules and ONNX graphs and return values; the package has no HTTP, no
database and no configuration. Public names are imported on first use, so that light modules
(`bn_ops.core.signature`, `bn_ops.errors`) do not load onnx, onnxruntime or torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bn_ops.adaptation import adapt as adapt
    from bn_ops.adaptation import compare_on_labels as compare_on_labels
    from bn_ops.api import check_input as check_input
    from bn_ops.api import describe as describe
    from bn_ops.api import inspect as inspect
    from bn_ops.api import rank_preprocessings as rank_preprocessings
    from bn_ops.api import recalibrate as recalibrate
    from bn_ops.batchnorm_insertion import Insertion as Insertion
    from bn_ops.batchnorm_insertion import insert_batchnorm as insert_batchnorm
    from bn_ops.core.estimators import Auto as Auto
    from bn_ops.core.estimators import Momentum as Momentum
    from bn_ops.core.estimators import Prior as Prior
    from bn_ops.core.estimators import Replace as Replace
    from bn_ops.core.estimators import Shrink as Shrink
    from bn_ops.core.estimators import estimator_from_json as estimator_from_json
    from bn_ops.core.estimators import estimator_from_string as estimator_from_string
    from bn_ops.core.layers import LayerInfo as LayerInfo
    from bn_ops.core.layers import ModelInfo as ModelInfo
    from bn_ops.core.options import Budget as Budget
    from bn_ops.core.options import LayerDrift as LayerDrift
    from bn_ops.core.options import Progress as Progress
    from bn_ops.core.sharding import Conductor as Conductor
    from bn_ops.core.sharding import MeasurementPlan as MeasurementPlan
    from bn_ops.core.sharding import SettledLevel as SettledLevel
    from bn_ops.core.sharding import ShardedResult as ShardedResult
    from bn_ops.core.sharding import ShardMoments as ShardMoments
    from bn_ops.core.sharding import merge_moments as merge_moments
    from bn_ops.core.sharding import shard_ranges as shard_ranges
    from bn_ops.core.statistics import RunningStatistics as RunningStatistics
    from bn_ops.core.version import __version__ as __version__
    from bn_ops.diagnostics.html import render_html as render_html
    from bn_ops.diagnostics.plot import plot_drift as plot_drift
    from bn_ops.diagnostics.report import Candidate as Candidate
    from bn_ops.diagnostics.report import Choice as Choice
    from bn_ops.diagnostics.report import LayerFold as LayerFold
    from bn_ops.diagnostics.report import OutputParity as OutputParity
    from bn_ops.diagnostics.report import Parity as Parity
    from bn_ops.diagnostics.report import ReasonCode as ReasonCode
    from bn_ops.diagnostics.report import Report as Report
    from bn_ops.diagnostics.report import Verdict as Verdict
    from bn_ops.diagnostics.report import VerdictCode as VerdictCode
    from bn_ops.diagnostics.report import VerdictReason as VerdictReason
    from bn_ops.engines.torch import load_statistics as load_statistics
    from bn_ops.errors import BnOpsError as BnOpsError
    from bn_ops.errors import CancelledError as CancelledError
    from bn_ops.errors import InputMismatchError as InputMismatchError
    from bn_ops.errors import ShardError as ShardError
    from bn_ops.errors import ShardMismatchError as ShardMismatchError
    from bn_ops.exporting import export as export
    from bn_ops.folding import Folded as Folded
    from bn_ops.folding import fold as fold
    from bn_ops.input_check.result import InputCheck as InputCheck
    from bn_ops.input_check.result import PreprocessingScore as PreprocessingScore
    from bn_ops.pipeline.shard import Shard as Shard
    from bn_ops.pipeline.sharded import measure_shard as measure_shard
    from bn_ops.pipeline.sharded import open_shard as open_shard
    from bn_ops.pipeline.sharded import plan_measurement as plan_measurement
    from bn_ops.pipeline.sharded import store_statistics as store_statistics
    from bn_ops.preprocess import Preprocess as Preprocess
    from bn_ops.preprocess import Resize as Resize
    from bn_ops.preprocess import image_batches as image_batches
    from bn_ops.preprocess import preprocess_from_json as preprocess_from_json
    from bn_ops.result import Artifact as Artifact
    from bn_ops.result import Recalibration as Recalibration
    from bn_ops.verification import verify as verify

__all__ = [
    "Artifact",
    "Auto",
    "BnOpsError",
    "Budget",
    "CancelledError",
    "Candidate",
    "Choice",
    "Conductor",
    "Folded",
    "InputCheck",
    "InputMismatchError",
    "Insertion",
    "LayerDrift",
    "LayerFold",
    "LayerInfo",
    "MeasurementPlan",
    "ModelInfo",
    "Momentum",
    "OutputParity",
    "Parity",
    "Preprocess",
    "PreprocessingScore",
    "Prior",
    "Progress",
    "ReasonCode",
    "Recalibration",
    "Replace",
    "Report",
    "Resize",
    "RunningStatistics",
    "SettledLevel",
    "Shard",
    "ShardError",
    "ShardMismatchError",
    "ShardMoments",
    "ShardedResult",
    "Shrink",
    "Verdict",
    "VerdictCode",
    "VerdictReason",
    "__version__",
    "adapt",
    "check_input",
    "compare_on_labels",
    "describe",
    "estimator_from_json",
    "estimator_from_string",
    "export",
    "fold",
    "image_batches",
    "insert_batchnorm",
    "inspect",
    "load_statistics",
    "measure_shard",
    "merge_moments",
    "open_shard",
    "plan_measurement",
    "plot_drift",
    "preprocess_from_json",
    "rank_preprocessings",
    "recalibrate",
    "render_html",
    "shard_ranges",
    "store_statistics",
    "verify",
]

# The module that defines each public name.
_HOME = {
    "Artifact": "bn_ops.result",
    "Auto": "bn_ops.core.estimators",
    "BnOpsError": "bn_ops.errors",
    "Budget": "bn_ops.core.options",
    "CancelledError": "bn_ops.errors",
    "Candidate": "bn_ops.diagnostics.report",
    "Choice": "bn_ops.diagnostics.report",
    "Conductor": "bn_ops.core.sharding",
    "Folded": "bn_ops.folding",
    "InputCheck": "bn_ops.input_check.result",
    "InputMismatchError": "bn_ops.errors",
    "Insertion": "bn_ops.batchnorm_insertion",
    "LayerDrift": "bn_ops.core.options",
    "LayerFold": "bn_ops.diagnostics.report",
    "LayerInfo": "bn_ops.core.layers",
    "MeasurementPlan": "bn_ops.core.sharding",
    "ModelInfo": "bn_ops.core.layers",
    "Momentum": "bn_ops.core.estimators",
    "OutputParity": "bn_ops.diagnostics.report",
    "Parity": "bn_ops.diagnostics.report",
    "Preprocess": "bn_ops.preprocess",
    "PreprocessingScore": "bn_ops.input_check.result",
    "Prior": "bn_ops.core.estimators",
    "Progress": "bn_ops.core.options",
    "ReasonCode": "bn_ops.diagnostics.report",
    "Recalibration": "bn_ops.result",
    "Replace": "bn_ops.core.estimators",
    "Report": "bn_ops.diagnostics.report",
    "Resize": "bn_ops.preprocess",
    "RunningStatistics": "bn_ops.core.statistics",
    "SettledLevel": "bn_ops.core.sharding",
    "Shard": "bn_ops.pipeline.shard",
    "ShardError": "bn_ops.errors",
    "ShardMismatchError": "bn_ops.errors",
    "ShardMoments": "bn_ops.core.sharding",
    "ShardedResult": "bn_ops.core.sharding",
    "Shrink": "bn_ops.core.estimators",
    "Verdict": "bn_ops.diagnostics.report",
    "VerdictCode": "bn_ops.diagnostics.report",
    "VerdictReason": "bn_ops.diagnostics.report",
    "__version__": "bn_ops.core.version",
    "adapt": "bn_ops.adaptation",
    "check_input": "bn_ops.api",
    "compare_on_labels": "bn_ops.adaptation",
    "describe": "bn_ops.api",
    "estimator_from_json": "bn_ops.core.estimators",
    "estimator_from_string": "bn_ops.core.estimators",
    "export": "bn_ops.exporting",
    "fold": "bn_ops.folding",
    "image_batches": "bn_ops.preprocess",
    "insert_batchnorm": "bn_ops.batchnorm_insertion",
    "inspect": "bn_ops.api",
    "load_statistics": "bn_ops.engines.torch",
    "measure_shard": "bn_ops.pipeline.sharded",
    "merge_moments": "bn_ops.core.sharding",
    "open_shard": "bn_ops.pipeline.sharded",
    "plan_measurement": "bn_ops.pipeline.sharded",
    "plot_drift": "bn_ops.diagnostics.plot",
    "preprocess_from_json": "bn_ops.preprocess",
    "rank_preprocessings": "bn_ops.api",
    "recalibrate": "bn_ops.api",
    "render_html": "bn_ops.diagnostics.html",
    "shard_ranges": "bn_ops.core.sharding",
    "store_statistics": "bn_ops.pipeline.sharded",
    "verify": "bn_ops.verification",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bn_ops' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f'bn_ops.{name} needs torch: pip install "bnrecal[torch]"', name="torch"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
