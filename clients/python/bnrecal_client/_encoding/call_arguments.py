"""`call=`: the arguments that a caller's function passes to a module, recorded and sent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

from bnrecal_client.errors import OptionError

__all__ = ["Call", "CallArguments"]

Call = Callable[[Any, Any], object]
"""`call(module, batch)` runs a module on one batch."""


class _Recorded(BaseException):
    """Ends a call whose arguments are known; no `except Exception` of the caller's catches it."""


class CallArguments:
    """The arguments with which `call(module, batch)` calls the module, to be sent in its place.

    The first batch runs through the module, in eval mode, to count the calls; later ones do not.

    Args:
        module: an nn.Module; its mode is restored.
        call: the caller's function.

    Raises:
        OptionError: the model is not an nn.Module.
    """

    def __init__(self, module: Any, call: Call) -> None:
        if not hasattr(module, "register_forward_pre_hook"):
            raise OptionError("call= is for an nn.Module")
        self._module = module
        self._call = call
        self._counted = False

    def of(self, batch: object) -> object:
        """Return the arguments for a batch: one, a tuple, or a dict by parameter.

        Raises:
            OptionError: the module is not called once, or with something other than arrays.
        """
        module, calls = self._module, []

        def record(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((args, kwargs))
            if self._counted:
                raise _Recorded

        modes = [(one, one.training) for one in module.modules()]
        handle = module.register_forward_pre_hook(record, with_kwargs=True)
        try:
            with sys.modules["torch"].no_grad():
                self._call(module.eval(), batch)
        except _Recorded:
            pass
        finally:
            handle.remove()
            for one, training in modes:
                one.training = training
        if len(calls) != 1:
            raise OptionError(
                f"call= calls the module {len(calls)} times for a batch; a server needs the inputs "
                "of one call, module(...): wrap the module in one whose forward does the rest"
            )
        self._counted = True
        return self._named(*calls[0])

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if len(args) == 1 and not kwargs:
            return args[0]
        named = signature(self._module.forward).bind(*args, **kwargs).arguments
        named = {name: value for name, value in named.items() if value is not None}
        for name, value in named.items():
            if not hasattr(value, "__array__"):
                raise OptionError(
                    f"call= passes {name}={value!r}, which is no array: wrap the module in one "
                    "whose forward passes it"
                )
        return named
