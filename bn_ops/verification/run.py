"""Running both models on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bn_ops.verification.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

    from bn_ops.diagnostics.report import Parity
    from bn_ops.folding.result import Folded

__all__ = ["DEFAULT_SEED", "DEFAULT_THREADS", "verify"]

DEFAULT_THREADS = 2
DEFAULT_SEED = 0


def verify(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto | Folded,
    batches: Iterable[Any],
    *,
    tolerance: float | None = None,
    threads: int | None = DEFAULT_THREADS,
    seed: int = DEFAULT_SEED,
) -> Parity:
    """Run two models on the same samples and tell how far apart their outputs are.

    Neither model is changed. How it is decided: `bn_ops.verification.verdict`.

    Args:
        reference: the unfolded model.
        candidate: the folded model, with the same inputs and outputs; or what `bn_ops.fold`
            returned, which brings its proof along.
        batches: calibration samples, as for `bn_ops.recalibrate`; may be empty, then only made-up
            samples are run.
        tolerance: allowed relative error; None takes 1e-5 for float32, 2e-3 for float16, 1e-12 for
            float64 models, and more where rounding alone moves the reference by more.
        threads: threads within an operator; None means every core.
        seed: of the random samples.

    Raises:
        OptionError: the models have other inputs or outputs than each other.
        ModelInvalidError: onnxruntime cannot load the reference.
        EngineError: onnxruntime cannot run the reference on the caller's batches.
        BatchError: a batch does not fit the model.
    """
    prepared = Reference(reference, batches, threads=threads, seed=seed)
    return prepared.judge(candidate, tolerance=tolerance)
