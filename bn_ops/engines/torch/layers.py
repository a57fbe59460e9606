"""Find, describe, read and write the BatchNorm layers of a module tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.errors import ModelUnsupportedError
from bn_ops.torch_modules.frozen_batchnorm import FrozenForm, form_of, frozen_eps
from bn_ops.torch_modules.module_state import overwrite

__all__ = ["ROOT_LAYER", "TorchLayer", "adopt", "find_layers", "layer_info", "release", "write"]

# A layer's name is its module path; the root itself has none.
ROOT_LAYER = "batch_norm"

_INPUT_RANKS: tuple[tuple[type[_BatchNorm], int], ...] = (
    (torch.nn.BatchNorm2d, 4),
    (torch.nn.BatchNorm3d, 5),
)

_UNTRACKED = (
    "keeps no running statistics (track_running_stats=False) and normalizes by each batch; "
    "adopt_untracked=True gives it running statistics"
)
_SCRIPTED = (
    "is called by TorchScript code, which bypasses hooks: recalibrate the nn.Module that it was "
    "made from"
)
_UNBUILT = "has no parameters yet (a lazy module): run one batch through the module first"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TorchLayer:
    """One BatchNorm module of any class, called any number of times.

    Attributes:
        name: path of the module in the tree; the first one if it has several.
        module: the module.
        eps: its epsilon.
        form: names of its tensors.
        reason: why it cannot be recalibrated; None if it can.
        functional: whether it is a call of `torch.nn.functional.batch_norm` instead of a module;
            `module` is then the root, and `form` holds paths from the root.
    """

    name: LayerName
    module: torch.nn.Module
    eps: float
    form: FrozenForm
    reason: str | None
    functional: bool = False

    @property
    def mean(self) -> torch.Tensor:
        """The buffer with the running mean."""
        return _held(self.module, self.form.mean)

    @property
    def var(self) -> torch.Tensor:
        """The buffer with the running variance."""
        return _held(self.module, self.form.var)

    @property
    def tracked(self) -> bool:
        """Whether the module currently holds running statistics."""
        return self.functional or getattr(self.module, self.form.mean, None) is not None

    def read(self) -> RunningStatistics | None:
        """Return the module's current statistics in float64, or None if it has none."""
        if not self.tracked or is_lazy(self.mean):
            return None
        return RunningStatistics(mean=_float64(self.mean), var=_float64(self.var))


def _held(module: torch.nn.Module, path: str) -> torch.Tensor:
    """Return a tensor by its path; TorchScript modules have no `get_buffer`."""
    found: torch.Tensor = attrgetter(path)(module)
    return found


def find_layers(root: torch.nn.Module, *, adopt_untracked: bool = False) -> list[TorchLayer]:
    """Return the BatchNorm layers of a tree in the order of registration, each module once."""
    return list(_layers(root, adopt_untracked=adopt_untracked))


def _layers(root: torch.nn.Module, *, adopt_untracked: bool) -> Iterator[TorchLayer]:
    scripted: list[str] = []
    for path, module in root.named_modules():
        name = path or ROOT_LAYER
        if isinstance(module, torch.jit.ScriptModule):
            scripted.append(f"{path}." if path else "")
        inside = any(path != outer.rstrip(".") and path.startswith(outer) for outer in scripted)
        if isinstance(module, _BatchNorm):
            reason = _reason(module, adopt_untracked=adopt_untracked)
            yield TorchLayer(
                name=name, module=module, eps=module.eps, form=FrozenForm(), reason=reason
            )
        elif (eps := frozen_eps(module)) is not None:
            reason = _SCRIPTED if inside else None
            yield TorchLayer(name=name, module=module, eps=eps, form=form_of(module), reason=reason)


def _reason(module: _BatchNorm, *, adopt_untracked: bool) -> str | None:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    if any(is_lazy(tensor) for tensor in own):
        return _UNBUILT
    if module.running_mean is None and not adopt_untracked:
        return _UNTRACKED
    return None


def layer_info(layer: TorchLayer) -> LayerInfo:
    """Return the engine-independent description of a layer."""
    statistics = layer.read()
    module = layer.module
    channels = statistics.channels if statistics else getattr(module, "num_features", 0) or None
    rank = next((rank for kind, rank in _INPUT_RANKS if isinstance(module, kind)), None)
    return LayerInfo(
        name=layer.name,
        channels=channels,
        eps=layer.eps,
        affine=_is_affine(layer),
        statistics=statistics,
        input_rank=rank,
        reason=layer.reason,
    )


def _is_affine(layer: TorchLayer) -> bool:
    for name, neutral in ((layer.form.weight, 1.0), (layer.form.bias, 0.0)):
        # The names of a functional layer's tensors are paths.
        tensor: object = layer.module
        for part in name.split("."):
            tensor = getattr(tensor, part, None)
        if not isinstance(tensor, torch.Tensor) or is_lazy(tensor):
            continue
        if not torch.equal(tensor, torch.full_like(tensor, neutral)):
            return True
    return False


def adopt(layers: Iterable[TorchLayer]) -> None:
    """Add running statistics to layers that have none. Modified: their modules."""
    for layer in layers:
        module = layer.module
        if layer.tracked or not isinstance(module, _BatchNorm):
            continue
        like = next(module.parameters(), torch.empty(0))
        module.running_mean = torch.zeros(module.num_features, dtype=like.dtype, device=like.device)
        module.running_var = torch.ones(module.num_features, dtype=like.dtype, device=like.device)
        module.num_batches_tracked = torch.zeros((), dtype=torch.long, device=like.device)
        module.track_running_stats = True


def release(layer: TorchLayer) -> None:
    """Remove the running statistics of an adopted layer. Modified: its module."""
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        layer.module.register_buffer(name, None)
    layer.module.__dict__["track_running_stats"] = False


def write(
    layers: Mapping[LayerName, TorchLayer], statistics: Mapping[LayerName, RunningStatistics]
) -> None:
    """Write statistics into the modules in place, in the modules' own dtypes.

    Raises:
        ModelUnsupportedError: a value is out of range of the module's dtype (float16: 65504); no
            layer has been written.
    """
    cast = [
        (buffer, _cast(name, values, buffer))
        for name, new in statistics.items()
        for buffer, values in (
            (layers[name].mean, new.mean),
            (layers[name].var, new.var),
        )
    ]
    for buffer, values in cast:
        overwrite(buffer, values)


def _cast(name: LayerName, values: Float64Array, buffer: torch.Tensor) -> torch.Tensor:
    cast = torch.from_numpy(values.copy()).to(buffer.dtype)
    if np.isfinite(values).all() and not bool(torch.isfinite(cast).all()):
        raise ModelUnsupportedError(
            f"layer {name!r}: a statistic of {np.abs(values).max():.3g} does not fit "
            f"{buffer.dtype}; keep this layer's buffers in float32"
        )
    return cast


def _float64(tensor: torch.Tensor) -> Float64Array:
    return tensor.detach().cpu().double().numpy().copy()
