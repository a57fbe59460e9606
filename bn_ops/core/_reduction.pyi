import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array

def reduce(
    x: NDArray[np.uint8],
    mean: Float64Array,
    sq_dev: Float64Array,
    kind: int,
    rows: int,
    positions: int,
    channels: int,
    step: int,
    threads: int,
    /,
) -> None: ...
def has_openmp() -> bool: ...
