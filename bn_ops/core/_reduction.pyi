import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array

def reduce_planar(
    x: NDArray[np.uint8],
    mean: Float64Array,
    sq_dev: Float64Array,
    kind: int,
    rows: int,
    length: int,
    /,
) -> None: ...
def reduce_interleaved(
    x: NDArray[np.uint8],
    mean: Float64Array,
    sq_dev: Float64Array,
    kind: int,
    rows: int,
    positions: int,
    channels: int,
    /,
) -> None: ...
