"""The layers that one run recalibrates: selected, stored, and everything else digested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import torch
from torch.nn.parameter import is_lazy

from bn_ops.core.layers import LayerInfo, select_layers
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.torch.layers import TorchLayer, adopt, find_layers, layer_info, release, write
from bn_ops.errors import ModelUnsupportedError, ModelWithoutBatchNormError
from bn_ops.torch_modules.module_state import overwrite

__all__ = ["ModuleDigests", "SelectedLayers", "check_runnable"]

# Passing a smaller tensor to another thread takes longer than hashing it.
_LARGE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedLayers:
    """The layers of one run.

    Attributes:
        found: every BatchNorm layer.
        infos: their descriptions.
        selected: the layers to recalibrate.
    """

    found: tuple[TorchLayer, ...]
    infos: dict[LayerName, LayerInfo]
    selected: dict[LayerName, TorchLayer]

    @classmethod
    def find(
        cls,
        module: torch.nn.Module,
        patterns: Sequence[str] | None,
        *,
        adopt_untracked: bool,
        functional: Sequence[TorchLayer] = (),
    ) -> SelectedLayers:
        """Return the layers of a module, selected by patterns.

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
            selected={layer.name: layer for layer in found if layer.name in names},
        )

    def store(self, statistics: Mapping[LayerName, RunningStatistics]) -> Callable[[], None]:
        """Write the new statistics; return a function that restores the old ones bit for bit."""
        layers = [self.selected[name] for name in statistics]
        adopted = [layer for layer in layers if not layer.tracked]
        held = [
            (buffer, buffer.detach().clone())
            for layer in layers
            if layer.tracked
            for buffer in (layer.mean, layer.var)
        ]
        adopt(adopted)
        write(self.selected, statistics)

        def restore() -> None:
            for buffer, contents in held:
                overwrite(buffer, contents)
            for layer in adopted:
                release(layer)

        return restore


class ModuleDigests:
    """Implements `bn_ops.core.engine.Digests` for a module.

    Args:
        root: the module. Modified: no.
        changeable: the layers whose statistics may change.
    """

    source: str | None = None

    def __init__(self, root: torch.nn.Module, changeable: Iterable[TorchLayer]) -> None:
        self._root = root
        self._changeable = tuple(changeable)
        self._before = self.after()

    def before(self) -> Mapping[str, str]:
        """Return the digests from before the run."""
        return self._before

    def after(self) -> Mapping[str, str]:
        """Return the digests of every frozen parameter and buffer now, by path."""
        skipped = {
            id(tensor)
            for layer in self._changeable
            if layer.tracked
            for tensor in (layer.mean, layer.var)
        }
        named = {
            name: tensor.detach()
            for name, tensor in chain(self._root.named_parameters(), self._root.named_buffers())
            if id(tensor) not in skipped and not is_lazy(tensor)
        }
        large = [name for name, tensor in named.items() if tensor.nbytes >= _LARGE_BYTES]
        # One core would take longer to hash a large network than to run a batch; hashlib releases
        # the interpreter lock.
        with ThreadPoolExecutor(torch.get_num_threads(), "digests") as pool:
            hashed = pool.map(_digest, [named[name] for name in large])
            small = {name: _digest(named[name]) for name in named.keys() - set(large)}
            found = small | dict(zip(large, hashed, strict=True))
        return {name: found[name] for name in named}


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_runnable(module: torch.nn.Module) -> None:
    """Reject a module whose layers cannot be observed or that holds no data.

    Raises:
        ModelUnsupportedError: the module is TorchScript, or a tensor is on the meta device.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelUnsupportedError(
            "the module is TorchScript (traced or scripted), whose forward bypasses hooks: "
            "recalibrate the nn.Module that it was made from, or export that one to ONNX with "
            "bn_ops.export"
        )
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.device.type == "meta":
            raise ModelUnsupportedError(
                f"{name!r} is on the meta device and holds no data: load the weights first "
                "(module.to_empty(device=...), then load_state_dict)"
            )


def _no_layer(module: torch.nn.Module, found: Sequence[TorchLayer]) -> str:
    if not found:
        return (
            f"{type(module).__name__} has no BatchNorm layer. LayerNorm, GroupNorm and "
            "InstanceNorm keep no statistics of the data; a fused or quantized network has lost "
            "its BatchNorm layers: use the network from before that step"
        )
    first = found[0]
    return (
        f"none of the {len(found)} BatchNorm layers can be recalibrated: "
        f"{first.name!r} {first.reason}"
    )
