"""A zoo of small networks: one per way in which BatchNorm occurs in real architectures.

Each is seeded, tiny, and has weights, scales, shifts and source statistics drawn at random, so
that no layer is the identity and no test passes by symmetry. `inputs(n)` makes a batch of n
samples as the positional arguments (a tuple) or the named ones (a dict) of a call.
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
class Animal:
    """One network of the zoo.

    Attributes:
        name: what is particular to it.
        make: builds it, without weights of its own choice.
        shapes: per input, by parameter name, its shape without the sample axis.
        integers: inputs that are indices below 7.
        shared: whether a BatchNorm is called more than once per forward.
        as_dict: whether inputs are passed by name.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    integers: frozenset[str] = frozenset()
    shared: bool = False
    as_dict: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """Return the network in eval mode, with everything drawn from the seed."""
        state = torch.random.get_rng_state()
        try:
            torch.manual_seed(seed)
            model = self.make()
            randomise(model)
        finally:
            torch.random.set_rng_state(state)
        return model.eval()

    def inputs(self, samples: int, seed: int = 1) -> Inputs:
        """Return a batch, off centre and unevenly scaled like data of another domain."""
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


def randomise(model: nn.Module) -> None:
    """Draw scales, shifts and statistics of every BatchNorm and look-alike."""
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
    """Cut one batch into batches of the given sizes, in order."""
    if isinstance(inputs, dict):
        cut = {name: tensor.split(sizes) for name, tensor in inputs.items()}
        return [{name: cut[name][i] for name in cut} for i in range(len(sizes))]
    parts = [tensor.split(sizes) for tensor in inputs]
    return [tuple(part[i] for part in parts) for i in range(len(sizes))]


_IMAGE: dict[str, tuple[int, ...]] = {"input": (2, 10, 10)}
_X: dict[str, tuple[int, ...]] = {"x": (2, 8, 8)}


def _chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


ZOO: tuple[Animal, ...] = (
    Animal(name="plain", make=lambda: _chain(conv_bn(2, 4), conv_bn(4, 4), head(4)), shapes=_IMAGE),
    Animal(
        name="residual",
        make=lambda: _chain(
            conv_bn(2, 4), blocks.Residual(4, 4), blocks.Residual(4, 6, 2), head(6)
        ),
        shapes=_IMAGE,
    ),
    Animal(
        name="pre_activation",
        make=lambda: _chain(nn.Conv2d(2, 4, 1), blocks.PreActivation(4), blocks.PreActivation(4)),
        shapes=_IMAGE,
    ),
    Animal(
        name="dense",
        make=lambda: _chain(
            nn.Conv2d(2, 4, 3), blocks.Dense(), nn.BatchNorm2d(13), nn.ReLU(), head(13)
        ),
        shapes=_IMAGE,
    ),
    Animal(
        name="inverted_residual",
        make=lambda: _chain(
            conv_bn(2, 4), blocks.InvertedResidual(4), blocks.InvertedResidual(4), head(4)
        ),
        shapes=_IMAGE,
    ),
    Animal(
        name="inception",
        make=lambda: _chain(conv_bn(2, 4), blocks.Branches(4), blocks.Branches(12), head(12)),
        shapes=_IMAGE,
    ),
    Animal(
        name="channel_shuffle",
        make=lambda: _chain(conv_bn(2, 8), blocks.ShuffleUnit(), blocks.ShuffleUnit(), head(8)),
        shapes=_IMAGE,
    ),
    Animal(
        name="squeeze_excite",
        make=lambda: _chain(
            conv_bn(2, 4), blocks.SqueezeExcite(4), blocks.SqueezeExcite(4, nn.Hardswish)
        ),
        shapes=_IMAGE,
    ),
    Animal(name="unet", make=blocks.UNet, shapes=_X),
    Animal(name="audio_1d", make=stacks.audio, shapes={"input": (1, 40)}),
    Animal(
        name="gated_1d",
        make=lambda: _chain(blocks.Gated(3, 1), blocks.Gated(3, 2)),
        shapes={"input": (3, 16)},
    ),
    Animal(name="video_3d", make=stacks.video, shapes={"input": (2, 4, 6, 6)}),
    Animal(name="mlp", make=stacks.mlp, shapes={"input": (6,)}),
    Animal(name="before_convolution", make=stacks.before_convolution, shapes=_IMAGE),
    Animal(name="after_activation", make=stacks.after_activation, shapes=_IMAGE),
    Animal(name="shared", make=blocks.SharedNorm, shapes=_X, shared=True),
    Animal(
        name="siamese",
        make=blocks.Siamese,
        shapes={"left": (2, 6, 6), "right": (2, 6, 6)},
        shared=True,
    ),
    Animal(name="double_input", make=blocks.TwoTowers, shapes={"image": (2, 6, 6), "table": (6,)}),
    Animal(
        name="double_input_by_name",
        make=blocks.TwoTowers,
        shapes={"image": (2, 6, 6), "table": (6,)},
        as_dict=True,
    ),
    Animal(name="named_outputs", make=blocks.NamedOutputs, shapes={"image": (2, 8, 8)}),
    Animal(name="batchnorm_in_head", make=stacks.batchnorm_in_head, shapes=_IMAGE),
    Animal(name="depthwise_separable", make=stacks.depthwise, shapes={"input": (3, 12, 12)}),
    Animal(
        name="grouped",
        make=lambda: _chain(conv_bn(2, 6), conv_bn(6, 6, groups=3), conv_bn(6, 4, 1), head(4)),
        shapes=_IMAGE,
    ),
    Animal(name="dilated_pyramid", make=blocks.Pyramid, shapes=_X),
    Animal(name="attention", make=blocks.Attention, shapes=_X),
    Animal(
        name="rep_branches", make=lambda: _chain(conv_bn(2, 4), blocks.RepVGG(4)), shapes=_IMAGE
    ),
    Animal(name="two_readers", make=blocks.TwoReaders, shapes=_X),
    Animal(name="transposed_generator", make=stacks.generator, shapes={"input": (6,)}),
    Animal(name="with_dropout", make=stacks.with_dropout, shapes=_IMAGE),
    Animal(name="frozen_lookalike", make=stacks.frozen, shapes=_IMAGE),
    Animal(name="subclass_with_activation", make=stacks.subclassed, shapes=_IMAGE),
    Animal(name="weight_norm", make=stacks.weight_normed, shapes=_IMAGE),
    Animal(name="synchronised", make=stacks.synchronised_network, shapes=_IMAGE),
    Animal(name="mixed_norms", make=stacks.mixed_norms, shapes=_IMAGE),
    Animal(name="recurrent", make=blocks.Recurrent, shapes={"x": (3, 9)}),
    Animal(
        name="tokens", make=blocks.Tokens, shapes={"words": (8,)}, integers=frozenset({"words"})
    ),
    Animal(
        name="partial_stage",
        make=lambda: _chain(conv_bn(2, 6), blocks.PartialStage(), head(6)),
        shapes=_IMAGE,
    ),
    Animal(name="super_resolution", make=blocks.SuperResolution, shapes=_X),
)
