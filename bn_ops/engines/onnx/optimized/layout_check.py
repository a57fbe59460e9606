"""Whether the installed onnxruntime optimises as the optimised cut expects; asked once a process.

The optimised cut depends on how onnxruntime writes its blocked layout. A tiny network with every
habit that it relies on (padded channels, an addition and an activation fused into a layer, a layer
before its convolution) goes through both cuts; if anything differs, or fails, the plain cut is used
for every model.
"""

from __future__ import annotations

from functools import cache

__all__ = ["blocked_channels"]


@cache
def blocked_channels() -> int | None:
    """Return the number of channels per block, or None if the optimised cut cannot be trusted."""
    from bn_ops.engines.onnx.optimized.self_test import passes, probe_block  # noqa: PLC0415 - it tests us

    block = probe_block()
    return block if block is not None and passes(block) else None
