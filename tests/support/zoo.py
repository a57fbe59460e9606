"""A zoo of small networks: one for each way in which BatchNorm occurs in real architectures.

The networks are tiny. Weights, scales, shifts and source statistics are random with a fixed seed,
so that no layer is the identity and no test passes by symmetry. `inputs(n)` returns a batch of n
samples as the positional (a tuple) or named (a dict) arguments of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.support import zoo_blocks as blocks
from tests.support import zoo_stacks as stacks
from tests.support.zoo_blocks import conv_bn, head

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooNetwork:
    """One network of the zoo.

    Attributes:
        name: the distinctive feature.
        make: builds the module; its weights are replaced.
        shapes: shape of each input without the sample axis, by parameter name.
        integers: inputs that are integer indices below 7.
        shared: whether a BatchNorm is called more than once per forward.
        as_dict: whether the inputs are passed by name.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    integers: frozenset[str] = frozenset()
    shared: bool = False
    as_dict: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """Return the network in eval mode, with all parameters drawn from the seed."""
        state = torch.random.get_rng_state()
        try:
            torch.manual_seed(seed)
            model = self.make()
            randomize(model)
        finally:
            torch.random.set_rng_state(state)
        return model.eval()

    def inputs(self, samples: int, seed: int = 1) -> Inputs:
        """Return a batch whose mean and scale differ per channel from the source domain."""
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for name, shape in self.shapes.items():
            if name in self.integers:
                tensors[name] = torch.randint(0, 7, (samples, *shape), generator=generator)
            else:
                noise = torch.randn(samples, *shape, generator=generator)
                gain = 0.5 + torch.rand(samples, *([1] * len(shape)), generator=generator)
                tensors[name] = 1.7 * noise * gain + 0.6
        return tensors if self.as_dict else tuple(tensors.values())

    def __str__(self) -> str:
        return self.name


def randomize(model: nn.Module) -> None:
    """Draw scale, shift and statistics of every BatchNorm and similar module."""
    for module in model.modules():
        if not isinstance(getattr(module, "running_mean", None), torch.Tensor):
            continue
        with torch.no_grad():
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.5, 0.5),
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 2.0),
            ):
                tensor = getattr(module, name, None)
                if tensor is not None:
                    tensor.uniform_(low, high)


def split(inputs: Inputs, sizes: list[int]) -> list[Inputs]:
    """Split one batch into batches of the given sizes, in order."""
    if isinstance(inputs, dict):
        cut = {name: tensor.split(sizes) for name, tensor in inputs.items()}
        return [{name: cut[name][i] for name in cut} for i in range(len(sizes))]
    parts = [tensor.split(sizes) for tensor in inputs]
    return [tuple(part[i] for part in parts) for i in range(len(sizes))]


_IMAGE: dict[str, tuple[int, ...]] = {"input": (2, 10, 10)}
_X: dict[str, tuple[int, ...]] = {"x": (2, 8, 8)}


def _chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


ZOO: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        name="plain", make=lambda: _chain(conv_bn(2, 4), conv_bn(4, 4), head(4)), shapes=_IMAGE
    ),
    ZooNetwork(
        name="residual",
        make=lambda: _chain(
            conv_bn(2, 4), blocks.Residual(4, 4), blocks.Residual(4, 6, 2), head(6)
        ),
        shapes=_IMAGE,
    ),
    ZooNetwork(
        name="pre_activation",
        make=lambda: _chain(nn.Conv2d(2, 4, 1), blocks.PreActivation(4), blocks.PreActivation(4)),
        shapes=_IMAGE,
    ),
    ZooNetwork(
        name="dense",
        make=lambda: _chain(
            nn.Conv2d(2, 4, 3), blocks.Dense(), nn.BatchNorm2d(13), nn.ReLU(), head(13)
        ),
        shapes=_IMAGE,
    ),
    ZooNetwork(
        name="inverted_residual",
        make=lambda: _chain(
            conv_bn(2, 4), blocks.InvertedResidual(4), blocks.InvertedResidual(4), head(4)
        ),
        shapes=_IMAGE,
    ),
    ZooNetwork(
        name="inception",
        make=lambda: _chain(conv_bn(2, 4), blocks.Branches(4), blocks.Branches(12), head(12)),
        shapes=_IMAGE,
    ),
    ZooNetwork(
        name="channel_shuffle",
        make=lambda: _chain(conv_bn(2, 8), blocks.ShuffleUnit(), blocks.ShuffleUnit(), head(8)),
        shapes=_IMAGE,
    ),
    ZooNetwork(
        name="squeeze_excite",
        make=lambda: _chain(
            conv_bn(2, 4), blocks.SqueezeExcite(4), blocks.SqueezeExcite(4, nn.Hardswish)
        ),
        shapes=_IMAGE,
    ),
    ZooNetwork(name="unet", make=blocks.UNet, shapes=_X),
    ZooNetwork(name="audio_1d", make=stacks.audio, shapes={"input": (1, 40)}),
    ZooNetwork(
        name="gated_1d",
        make=lambda: _chain(blocks.Gated(3, 1), blocks.Gated(3, 2)),
        shapes={"input": (3, 16)},
    ),
    ZooNetwork(name="video_3d", make=stacks.video, shapes={"input": (2, 4, 6, 6)}),
    ZooNetwork(name="mlp", make=stacks.mlp, shapes={"input": (6,)}),
    ZooNetwork(name="before_convolution", make=stacks.before_convolution, shapes=_IMAGE),
    ZooNetwork(name="after_activation", make=stacks.after_activation, shapes=_IMAGE),
    ZooNetwork(name="shared", make=blocks.SharedNorm, shapes=_X, shared=True),
    ZooNetwork(
        name="siamese",
        make=blocks.Siamese,
        shapes={"left": (2, 6, 6), "right": (2, 6, 6)},
        shared=True,
    ),
    ZooNetwork(
        name="double_input", make=blocks.TwoTowers, shapes={"image": (2, 6, 6), "table": (6,)}
    ),
    ZooNetwork(
        name="double_input_by_name",
        make=blocks.TwoTowers,
        shapes={"image": (2, 6, 6), "table": (6,)},
        as_dict=True,
    ),
    ZooNetwork(name="named_outputs", make=blocks.NamedOutputs, shapes={"image": (2, 8, 8)}),
    ZooNetwork(name="batchnorm_in_head", make=stacks.batchnorm_in_head, shapes=_IMAGE),
    ZooNetwork(name="depthwise_separable", make=stacks.depthwise, shapes={"input": (3, 12, 12)}),
    ZooNetwork(
        name="grouped",
        make=lambda: _chain(conv_bn(2, 6), conv_bn(6, 6, groups=3), conv_bn(6, 4, 1), head(4)),
        shapes=_IMAGE,
    ),
    ZooNetwork(name="dilated_pyramid", make=blocks.Pyramid, shapes=_X),
    ZooNetwork(name="attention", make=blocks.Attention, shapes=_X),
    ZooNetwork(
        name="rep_branches", make=lambda: _chain(conv_bn(2, 4), blocks.RepVGG(4)), shapes=_IMAGE
    ),
    ZooNetwork(name="two_readers", make=blocks.TwoReaders, shapes=_X),
    ZooNetwork(name="transposed_generator", make=stacks.generator, shapes={"input": (6,)}),
    ZooNetwork(name="with_dropout", make=stacks.with_dropout, shapes=_IMAGE),
    ZooNetwork(name="frozen_lookalike", make=stacks.frozen, shapes=_IMAGE),
    ZooNetwork(name="subclass_with_activation", make=stacks.subclassed, shapes=_IMAGE),
    ZooNetwork(name="weight_norm", make=stacks.weight_normed, shapes=_IMAGE),
    ZooNetwork(name="synchronized", make=stacks.synchronized_network, shapes=_IMAGE),
    ZooNetwork(name="mixed_norms", make=stacks.mixed_norms, shapes=_IMAGE),
    ZooNetwork(name="recurrent", make=blocks.Recurrent, shapes={"x": (3, 9)}),
    ZooNetwork(
        name="tokens", make=blocks.Tokens, shapes={"words": (8,)}, integers=frozenset({"words"})
    ),
    ZooNetwork(
        name="partial_stage",
        make=lambda: _chain(conv_bn(2, 6), blocks.PartialStage(), head(6)),
        shapes=_IMAGE,
    ),
    ZooNetwork(name="super_resolution", make=blocks.SuperResolution, shapes=_X),
)
