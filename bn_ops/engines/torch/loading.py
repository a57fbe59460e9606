"""Load the new statistics into a module, for use in training code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.engines.torch.layers import TorchLayer, find_layers, write
from bn_ops.errors import ModelInvalidError, OptionError

if TYPE_CHECKING:
    import torch

__all__ = ["load_statistics"]

_MEAN, _VAR = ".running_mean", ".running_var"


def load_statistics(module: torch.nn.Module, path: Path | str) -> list[LayerName]:
    """Write the statistics of a safetensors file into a module, in the module's dtype.

    Args:
        module: the network. Modified: running statistics of the layers named in the file.
        path: file with float64 tensors `<layer>.running_mean` and `<layer>.running_var`, (C,).

    Returns:
        The layers written, sorted by name.

    Raises:
        ModelInvalidError: the file does not exist, is not safetensors, or holds only one of the two
            tensors of a layer.
        OptionError: the module has no such layer, or a different number of channels; nothing has
            been written.
    """
    statistics = _read(Path(path))
    layers = {layer.name: layer for layer in find_layers(module)}
    for name, found in statistics.items():
        _check(layers, name, found)
    write(layers, statistics)
    return list(statistics)


def _read(path: Path) -> dict[LayerName, RunningStatistics]:
    try:
        tensors: Mapping[str, Float64Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelInvalidError(f"cannot read statistics from {path.name!r}: {error}") from error
    names = sorted({name.removesuffix(_MEAN).removesuffix(_VAR) for name in tensors})
    if any(not name.endswith((_MEAN, _VAR)) for name in tensors):
        raise ModelInvalidError(f"{path.name!r} holds tensors other than running statistics")
    for name in names:
        if name + _MEAN not in tensors or name + _VAR not in tensors:
            raise ModelInvalidError(f"{path.name!r} holds only one of mean and var of {name!r}")
    return {
        name: RunningStatistics(
            mean=np.asarray(tensors[name + _MEAN], dtype=np.float64),
            var=np.asarray(tensors[name + _VAR], dtype=np.float64),
        )
        for name in names
    }


def _check(
    layers: Mapping[LayerName, TorchLayer], name: LayerName, found: RunningStatistics
) -> None:
    layer = layers.get(name)
    if layer is None or not layer.tracked or layer.reason is not None:
        raise OptionError(
            f"the file has statistics of layer {name!r}, which the module does not have; "
            "it belongs to another network"
        )
    if layer.mean.shape != found.mean.shape:
        raise OptionError(
            f"layer {name!r} has {layer.mean.numel()} channels, the file has {found.channels}"
        )
