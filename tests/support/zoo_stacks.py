"""Networks of the zoo that are plain sequences of layers."""

from __future__ import annotations

from torch import nn

from tests.support.zoo_blocks import BatchNormAct2d, FrozenBatchNorm2d, Residual, conv_bn, head


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5, eps=1e-3), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip


def video() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU(),
        nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(4), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def audio() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 4, 5, stride=2), nn.ReLU(), nn.BatchNorm1d(4, momentum=0.0),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 6, 3), nn.ReLU(), nn.BatchNorm1d(6, momentum=None),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def generator() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (6, 1, 1)),
        nn.ConvTranspose2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 4, stride=2),
        conv_bn(4, 4, groups=4), conv_bn(4, 6, 1),
        conv_bn(6, 6, groups=6, stride=2), conv_bn(6, 8, 1),
        head(8),
    )  # fmt: skip


def before_convolution() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.ReLU(),
        nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1),
    )  # fmt: skip


def after_activation() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding=1), nn.ELU(), nn.BatchNorm2d(4), nn.AvgPool2d(2), head(4),
    )  # fmt: skip


def with_dropout() -> nn.Module:
    return nn.Sequential(
        conv_bn(2, 4), nn.Dropout2d(0.5), nn.Conv2d(4, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(4),
        nn.Linear(4, 3),
    )  # fmt: skip


def batchnorm_in_head() -> nn.Module:
    return nn.Sequential(
        conv_bn(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.LogSoftmax(dim=1),
    )  # fmt: skip


def frozen() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), FrozenBatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False), FrozenBatchNorm2d(4, eps=0.0), nn.ReLU(),
        head(4),
    )  # fmt: skip


def subclassed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), BatchNormAct2d(4), nn.Conv2d(4, 4, 3), BatchNormAct2d(4)
    )


def weight_normed() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3, padding=1))
    return nn.Sequential(normed, nn.BatchNorm2d(4), nn.Hardswish(), conv_bn(4, 3))


def synchronized_network() -> nn.Module:
    network = nn.Sequential(conv_bn(2, 4), Residual(4, 4))
    synchronized: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return synchronized


def mixed_norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.GELU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.BatchNorm2d(4),
    )  # fmt: skip
