"""Export does not modify the module, and its errors name the cause and a remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bn_ops.errors import ExportError
from bn_ops.exporting import export
from tests.support.zoo_blocks import FrozenBatchNorm2d, conv_bn


class Remembers(nn.Module):
    """A network that stores its last input."""

    def __init__(self) -> None:
        super().__init__()
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x
        return x


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class NoOnnxForm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.eigvals(x @ x.transpose(-1, -2))
        return values.real


class RefusesTraining(nn.Module):
    """A network that overrides `train`; some adapters merge weights there."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's signature
        self.calls += 1
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def network(last: nn.Module) -> nn.Sequential:
    model = nn.Sequential(
        conv_bn(1, 2), FrozenBatchNorm2d(2), nn.Dropout(0.5), Remembers(), nn.Sequential(last)
    )
    model.train()
    model[0].eval()
    model[1].register_forward_hook(lambda *_: None)
    return model


def fingerprint(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    for name, module in model.named_modules():
        found.append((name, module.training, sorted(module.__dict__)))
        found.append((len(module._forward_hooks), len(module._forward_pre_hooks)))
        found.append(sorted(vars(module).get("_buffers", {})))
    found.extend(value.numpy().tobytes() for value in model.state_dict().values())
    return found


X = torch.randn(2, 1, 4, 4)


@pytest.mark.parametrize("last", [nn.Identity(), Branching(), NoOnnxForm()])
def test_module_is_unchanged(last: nn.Module) -> None:
    model = network(last)
    before = fingerprint(model)
    if isinstance(last, nn.Identity):
        export(model, X)
    else:
        with pytest.raises(ExportError):
            export(model, X)
    assert fingerprint(model) == before
    remembers = model[3]
    assert isinstance(remembers, Remembers)
    assert remembers.last is None
    assert torch.is_grad_enabled()


def test_train_is_not_called() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), RefusesTraining())
    export(model, torch.randn(2, 2))
    refuses = model[1]
    assert isinstance(refuses, RefusesTraining)
    assert refuses.calls == 0
    assert model.training


def test_failure_names_module_reason_and_remedy(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ExportError, match=r"(?s)in '4\.0'.*data-dependent.*torch\.where"):
        export(network(Branching()), X)
    assert capfd.readouterr() == ("", "")


def test_operator_without_onnx_equivalent() -> None:
    with pytest.raises(ExportError, match=r"(?s)linalg_eig.*recalibrate the module itself"):
        export(network(NoOnnxForm()), X)


def test_input_rejected_by_layer() -> None:
    with pytest.raises(ExportError, match="in '1'"):
        export(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(4)), torch.randn(2, 2))


def test_failure_in_user_code() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError(f"no such thing in {x.ndim} axes")

    with pytest.raises(ExportError, match=r"KeyError.*in eval mode first"):
        export(nn.Sequential(Fails()), torch.randn(2, 2))


def train_mode_program(model: nn.Module) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("n", min=2)
    return torch.export.export(model.train(), (X,), dynamic_shapes=({0: batch},))


def test_program_is_exported_in_eval_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(1, 2), nn.Dropout(0.5), conv_bn(2, 3))
    with torch.no_grad():
        model.get_buffer("0.1.running_mean").fill_(0.25)
    program = train_mode_program(model)
    code = str(program.graph)
    proto = export(program)
    assert str(program.graph) == code
    from tests.support.onnx_run import run_onnx

    x = torch.randn(5, 1, 4, 4)
    with torch.no_grad():
        wanted = model.eval()(x)
    found = torch.from_numpy(run_onnx(proto, {"input": x.numpy()})[0])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    names = [n.name for n in proto.graph.node if n.op_type == "BatchNormalization"]
    assert names == ["0.1", "2.1"]
