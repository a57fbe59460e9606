"""The layers that one run recalibrates, and the writing of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from bn_ops.core.layers import LayerInfo, select_layers
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.torch.layers import TorchLayer, adopt, find_layers, layer_info, release, write
from bn_ops.errors import ModelUnsupportedError, ModelWithoutBatchNormError
from bn_ops.torch_modules.module_state import overwrite

if TYPE_CHECKING:
    import torch

__all__ = ["ChosenLayers", "check_devices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLayers:
    """The layers of one run: all of them, described, and those that are recalibrated."""

    found: tuple[TorchLayer, ...]
    infos: dict[LayerName, LayerInfo]
    chosen: dict[LayerName, TorchLayer]

    @classmethod
    def find(
        cls,
        module: torch.nn.Module,
        patterns: Sequence[str] | None,
        *,
        adopt_untracked: bool,
        functional: Sequence[TorchLayer] = (),
    ) -> ChosenLayers:
        """Find the layers of a module and select by patterns.

        Raises:
            ModelWithoutBatchNormError: no layer can be recalibrated.
        """
        found = [*find_layers(module, adopt_untracked=adopt_untracked), *functional]
        eligible = [layer.name for layer in found if layer.reason is None]
        if not eligible:
            raise ModelWithoutBatchNormError(_no_layer(module, found))
        names = select_layers(eligible, patterns)
        return cls(
            found=tuple(found),
            infos={layer.name: layer_info(layer) for layer in found},
            chosen={layer.name: layer for layer in found if layer.name in names},
        )

    def store(self, statistics: Mapping[LayerName, RunningStatistics]) -> Callable[[], None]:
        """Write the new statistics; return what puts the old ones back."""
        layers = [self.chosen[name] for name in statistics]
        adopted = [layer for layer in layers if not layer.tracked]
        held = [
            (buffer, buffer.detach().clone())
            for layer in layers
            if layer.tracked
            for buffer in (layer.mean, layer.var)
        ]
        adopt(adopted)
        write(self.chosen, statistics)

        def restore() -> None:
            for buffer, contents in held:
                overwrite(buffer, contents)
            for layer in adopted:
                release(layer)

        return restore


def check_devices(module: torch.nn.Module) -> None:
    """Check that a module holds numbers to run with.

    Raises:
        ModelUnsupportedError: a tensor is on the meta device.
    """
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.device.type == "meta":
            raise ModelUnsupportedError(
                f"{name!r} is on the meta device and holds no numbers: load the weights first "
                "(module.to_empty(device=...), then load_state_dict)"
            )


def _no_layer(module: torch.nn.Module, found: Sequence[TorchLayer]) -> str:
    if not found:
        return (
            f"{type(module).__name__} has no BatchNorm layer. LayerNorm, GroupNorm and "
            "InstanceNorm keep no statistics of the data; a fused or quantised network has "
            "none left: take the network from before"
        )
    first = found[0]
    return (
        f"none of the {len(found)} BatchNorm layers can be recalibrated: "
        f"{first.name!r} {first.reason}"
    )
