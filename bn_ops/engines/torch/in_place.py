"""Let layers overwrite inputs that nothing else will read.

An eval-mode BatchNorm, or an activation, writes a new tensor as large as its input. In a chain such
as `x = self.conv(x); x = self.bn(x); x = self.relu(x)` the input is dead afterwards, so the result
can take its place: the same operator with the same bits, a third of the memory, and no page faults
for fresh memory. The network decides nothing; it is proven at each call that the input is dead:

- The calling expression is the only owner (`self.bn(self.conv(x))`), or the only other one is the
  local variable that the statement overwrites with the result (`x = self.bn(x)`, and the loop of
  `nn.Sequential`). The count of references to the tensor excludes every other owner: variables of
  outer functions, attributes, lists, hooks that keep outputs.
- No other tensor shares its storage (views, detached copies, the caller's batch), and torch has
  allocated it: a tensor over the memory of a NumPy array would overwrite the array.
- It records no gradient, and no forward hook would see it after the layer.

Where any of this cannot be established, the layer runs as usual. Counts of references are CPython's
own; what a call without other owners counts is measured once, and where the two cases above do not
differ by one (Python 3.14 borrows references), nothing is overwritten.
"""

from __future__ import annotations

import dis
from collections.abc import Callable
from functools import cache
from sys import _getframe, getrefcount
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_internals
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["overwrite_dead_inputs"]

# Element-wise activations with an argument `inplace`.
_ACTIVATIONS: frozenset[type[nn.Module]] = frozenset(
    {
        nn.CELU,
        nn.ELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.SELU,
        nn.SiLU,
    }
)

_DTYPES = frozenset({torch.float32, torch.float64})

# The frames of torch between the caller of a module and its `forward`.
_CALLS = (nn.Module._wrapped_call_impl, nn.Module._call_impl)  # noqa: SLF001
_CALL_CODES = frozenset(
    code
    for function in _CALLS
    for code in (function.__code__, *function.__code__.co_consts)
    if isinstance(code, CodeType)
)

_NORMALIZE = torch.ops.aten.native_batch_norm.out

_SKIPPED = frozenset({"CACHE", "EXTENDED_ARG", "PRECALL", "PUSH_NULL"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


def overwrite_dead_inputs(root: nn.Module, enabled: Callable[[], bool]) -> None:
    """Let the BatchNorm layers and activations of a tree overwrite dead inputs.

    Args:
        root: the tree, in eval mode. Modified: the attribute `forward` of its modules, which a
            `bn_ops.torch_modules.module_state.Snapshot` restores.
        enabled: whether inputs may be overwritten now.
    """
    if _unowned() is None:
        return
    for child in root.modules():
        if "forward" in child.__dict__:
            continue
        if isinstance(child, _BatchNorm) and type(child).forward is _BatchNorm.forward:
            child.__dict__["forward"] = _batch_norm(child, enabled)
        elif type(child) in _ACTIVATIONS and not child.inplace:
            child.__dict__["forward"] = _activation(child, enabled)


def _batch_norm(layer: _BatchNorm, enabled: Callable[[], bool]) -> Callable[[Any], Any]:
    usual = type(layer).forward

    def forward(input: Any) -> Any:  # noqa: A002 - the name of torch
        references = getrefcount(input)
        dead = enabled() and _is_dead(layer, input, references)
        if not (dead and _normalizes(layer, input)):
            return usual(layer, input)
        layer._check_input_dim(input)  # type: ignore[no-untyped-call]  # noqa: SLF001
        unused = _unused(input.dtype)
        _NORMALIZE(
            *(input, layer.weight, layer.bias, layer.running_mean, layer.running_var),
            *(False, 0.0, layer.eps),
            out=input,
            save_mean=unused[0],
            save_invstd=unused[1],
        )
        return input

    return forward


@cache
def _unused(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two empty tensors for the batch statistics, which eval mode leaves empty."""
    with torch.inference_mode(mode=False):
        return (
            torch.empty(0, dtype=dtype, device="cpu"),
            torch.empty(0, dtype=dtype, device="cpu"),
        )


def _normalizes(layer: _BatchNorm, x: torch.Tensor) -> bool:
    """Return whether the layer normalizes by running statistics, all in the input's dtype."""
    tensors = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return (
        not layer.training
        and layer.running_mean is not None
        and all(tensor is None or tensor.dtype == x.dtype for tensor in tensors)
    )


def _activation(layer: Any, enabled: Callable[[], bool]) -> Callable[[Any], Any]:
    usual = type(layer).forward

    def forward(input: Any) -> Any:  # noqa: A002 - the name of torch
        references = getrefcount(input)
        if not (enabled() and _is_dead(layer, input, references)):
            return usual(layer, input)
        layer.inplace = True
        try:
            return usual(layer, input)
        finally:
            layer.inplace = False

    return forward


def _is_dead(layer: nn.Module, x: Any, references: int) -> bool:
    """Return whether nothing reads an input after its layer.

    Args:
        layer: the layer, whose `forward` calls this function.
        x: its input.
        references: what `forward` counts.
    """
    unowned = _unowned()
    seen_later = layer._forward_hooks or module_internals._global_forward_hooks  # noqa: SLF001
    if unowned is None or seen_later or not _is_writable(x):
        return False
    owners = references - unowned
    if owners == 1:
        frame = _getframe(2)
        while frame.f_code in _CALL_CODES and frame.f_back is not None:
            frame = frame.f_back
        return _overwrites_argument(frame.f_code, frame.f_lasti) and _owns_storage(x)
    return owners == 0 and _owns_storage(x)


def _is_writable(x: Any) -> bool:
    """Return whether torch allows to write into a tensor, and the layers here have been tested."""
    return (
        type(x) is torch.Tensor
        and not x.requires_grad
        and x.dtype in _DTYPES
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.is_inference() == torch.is_inference_mode_enabled()
    )


def _owns_storage(x: torch.Tensor) -> bool:
    """Return whether no other tensor or array shares the storage, and the tensor fills it."""
    try:
        storage = x.untyped_storage()
        alone = torch._C._storage_Use_Count(storage._cdata) == _storage_owners()  # noqa: SLF001
        # Memory of an array or a file, also of one that Tensor.numpy made, has a fixed size.
        if not (alone and storage.resizable() and storage.nbytes() == x.numel() * x.element_size()):
            return False
        # Owners in C++, such as an export by DLPack: torch before 2.13 does not count them above.
        return bool(x._use_count() == 1)  # type: ignore[attr-defined]  # noqa: SLF001
    except (AttributeError, NotImplementedError, RuntimeError):
        return False  # inside a transformation of torch.func, or an older torch


@cache
def _storage_owners() -> int:
    """Return the count of a storage with one tensor."""
    alone = torch.empty(1)
    storage = alone.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata))  # noqa: SLF001


@cache
def _overwrites_argument(code: CodeType, call: int) -> bool:
    """Return whether a statement is `x = f(x)`, where f is a local variable or an attribute of one.

    Args:
        code: the code of the calling function.
        call: the offset of the call in it.
    """
    found = [i for i in dis.get_instructions(code) if i.opname not in _SKIPPED]
    at = next((k for k, instruction in enumerate(found) if instruction.offset == call), None)
    if at is None or at + 1 == len(found) or found[at].opname != "CALL" or found[at].arg != 1:
        return False
    argument, result = found[at - 1], found[at + 1]
    function = at - 2
    while function > 0 and found[function].opname in _ATTRIBUTES:
        function -= 1
    return (
        (argument.opname, result.opname) == ("LOAD_FAST", "STORE_FAST")
        and argument.argval == result.argval
        and function >= 0
        and found[function].opname == "LOAD_FAST"
    )


@cache
def _unowned() -> int | None:
    """Return the number of references to an input that has no owner but its call.

    Returns:
        None where a local variable does not count as one more, or where hooks change the count.
    """
    counts: list[int] = []
    module = nn.Module()
    module.forward = lambda input: counts.append(getrefcount(input))  # noqa: A006
    for hooked in (False, True):
        if hooked:
            module.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
        module(torch.empty(1))
        x = torch.empty(1)
        x = module(x)
    temporary, local, *with_hooks = counts
    consistent = local == temporary + 1 and with_hooks == [temporary, local]
    return temporary if consistent else None
