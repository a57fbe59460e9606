"""How much memory and disk the frontier's tensors may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bn_ops.errors import OptionError

__all__ = ["Budget"]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits for the tensors that wait at the frontier.

    Attributes:
        memory_bytes: held in memory; what does not fit is written to files.
        spill_bytes: held in files; beyond it the run ends with `SpillLimitError`.
        spill_folder: where the files go; None means the system's temporary folder.
    """

    memory_bytes: int = 2 * _GIB
    spill_bytes: int = 64 * _GIB
    spill_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.memory_bytes < 0 or self.spill_bytes < 0:
            raise OptionError(f"a budget cannot be negative: {self}")
