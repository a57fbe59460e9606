"""Access to onnxruntime: telemetry off, quiet, errors translated."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from bn_ops.errors import EngineError, ModelInvalidError, OptionError
from bn_ops.onnx_files.large_models import packed

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import onnx
    from numpy.typing import NDArray

__all__ = [
    "CPU",
    "Provider",
    "Session",
    "onnxruntime",
    "open_inner",
    "runs_on_cpu",
    "session",
    "translated",
    "use_providers",
]

Provider: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""An execution provider of onnxruntime: its name, or its name and options."""

CPU = "CPUExecutionProvider"

_DEFAULT_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"CUDAExecutionProvider": MappingProxyType({"use_tf32": "0"})}
)
"""Options of a provider that is given by name only. TF32 keeps 10 bits of the mantissa, too few for
exact statistics; it is on by default. Source: onnxruntime's documentation of the CUDA provider."""

_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
)
"""Distributions that install the package `onnxruntime`, each with other providers."""

_providers: ContextVar[tuple[Provider, ...]] = ContextVar("providers", default=(CPU,))

# onnxruntime's severity levels: 0 verbose … 4 fatal. Its warnings are about initializers and
# provider choices, on which a user of this package cannot act.
_LOG_ERRORS_ONLY = 3

# onnx.TensorProto.BFLOAT16, without loading onnx for it.
_ONNX_BFLOAT16 = 16


@cache
def onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry off.

    From 1.29 telemetry is on by default on Linux and writes id files under the user's cache folder.
    The variable is read once, at import, so it must be set before. This is the only environment
    variable that this package sets.

    Raises:
        EngineError: no distribution of onnxruntime is installed, or it cannot be loaded.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort  # noqa: PLC0415 - after the variable is set
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}): install `onnxruntime`, or one distribution "
            f"with other providers in its place, such as `onnxruntime-gpu`{_conflict()}"
        ) from error
    if not hasattr(ort, "InferenceSession"):
        # What is left when one of two distributions that share the folder is uninstalled.
        raise EngineError(
            "the installation of onnxruntime is incomplete: reinstall the distribution that you "
            f"use, with `pip install --force-reinstall --no-deps`{_conflict()}"
        )
    return ort  # type: ignore[no-any-return]  # untyped package


def _conflict() -> str:
    """Return a hint where several distributions of onnxruntime overwrite each other's files."""
    found = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(found) < 2:  # noqa: PLR2004 - one is as it should be
        return ""
    return (
        f". {' and '.join(found)} are installed and overwrite each other's files: uninstall all "
        "of them, then install the one that you use"
    )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


@contextmanager
def use_providers(providers: Sequence[Provider] | None) -> Iterator[None]:
    """Open all sessions of this context with execution providers, in order of preference.

    Args:
        providers: names such as "CUDAExecutionProvider", or (name, options); None for the CPU's.
            The CPU's follows them for operators that they lack.

    Raises:
        OptionError: a provider is not available in the installed onnxruntime.
    """
    token = _providers.set((CPU,) if providers is None else _checked(providers))
    try:
        yield
    finally:
        _providers.reset(token)


def runs_on_cpu() -> bool:
    """Return whether sessions of this context use the CPU's provider only."""
    return [_name(provider) for provider in _providers.get()] == [CPU]


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _checked(providers: object) -> tuple[Provider, ...]:
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        raise OptionError(
            "providers takes a list of onnxruntime's execution providers, such as "
            f'["CUDAExecutionProvider"], got {providers!r}'
        )
    available = onnxruntime().get_available_providers()
    for provider in providers:
        pair = isinstance(provider, tuple) and len(provider) == 2  # noqa: PLR2004 - name, options
        if not (isinstance(provider, str) or pair):
            raise OptionError(f"a provider is a name or a pair (name, options), got {provider!r}")
        if _name(provider) not in available:
            raise OptionError(
                f"the provider {_name(provider)!r} is not available; the installed onnxruntime "
                f"{onnxruntime().__version__} has {', '.join(available)}. Another distribution "
                f"may have it, such as onnxruntime-gpu{_conflict()}"
            )
    given = tuple(providers)
    return given if CPU in map(_name, given) else (*given, CPU)


def _with_options(provider: Provider) -> tuple[str, dict[str, Any]]:
    if isinstance(provider, str):
        return provider, dict(_DEFAULT_OPTIONS.get(provider, {}))
    return provider[0], dict(provider[1])


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise onnxruntime's exceptions as `EngineError`."""
    try:
        yield
    except Exception as error:
        # onnxruntime's exceptions have no common base class of their own.
        if type(error).__module__.startswith("onnxruntime"):
            raise EngineError(f"onnxruntime failed while {action}: {error}") from error
        raise


class _ProviderNotStartedError(EngineError):
    """A requested provider did not start; the model is not the cause."""


class Session:
    """One model in onnxruntime, with the providers of the context; see `use_providers`.

    Args:
        inner: onnxruntime's own session.
        keep_alive: objects whose memory that session uses.
    """

    def __init__(self, inner: Any, keep_alive: Any = None) -> None:
        self._inner = inner
        self._keep_alive = keep_alive

    def run(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[np.generic]]
    ) -> list[NDArray[np.generic]]:
        """Run the model; `outputs=None` means all, in the model's order.

        Raises:
            EngineError: onnxruntime rejected the inputs or failed.
        """
        with translated("running the model"):
            return self._inner.run(  # type: ignore[no-any-return]  # untyped package
                None if outputs is None else list(outputs),
                {name: _feed(array) for name, array in feeds.items()},
            )


def _feed(array: NDArray[np.generic]) -> Any:
    """Return an array as onnxruntime takes it: bfloat16 is not one of numpy's own types."""
    if array.dtype.name != "bfloat16":
        return array
    bits = array.view("uint16")
    return onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)


def session(
    model: onnx.ModelProto | bytes | str | Path,
    *,
    threads: int | None = None,
    optimize: bool = True,
    disabled: Sequence[str] = (),
    more_outputs: Sequence[str] = (),
) -> Session:
    """Open a model.

    Args:
        model: a model of any size, a serialized one, or a path (required for external data).
        threads: threads within an operator; None means every core.
        optimize: whether onnxruntime optimizes the graph.
        disabled: names of optimizations to leave out.
        more_outputs: tensors of a `ModelProto` to return as additional outputs.

    Raises:
        ModelInvalidError: onnxruntime cannot load the model.
        EngineError: a requested provider does not start.
        ModelUnsupportedError: the model is too large even without the initializers of its main
            graph.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    try:
        inner, keep_alive = open_inner(model, options, disabled=disabled, more_outputs=more_outputs)
    except _ProviderNotStartedError:
        raise
    except EngineError as error:
        raise ModelInvalidError(error.message) from error
    return Session(inner, keep_alive)


def _started(inner: Any) -> list[str]:
    return list(inner.get_providers())


def open_inner(
    model: onnx.ModelProto | bytes | str | Path,
    options: Any,
    *,
    disabled: Sequence[str] = (),
    more_outputs: Sequence[str] = (),
) -> tuple[Any, Any]:
    """Open onnxruntime's own session; return it with the objects that must outlive it.

    Raises:
        EngineError: onnxruntime cannot load the model.
    """
    ort = onnxruntime()
    source: bytes | str
    external: dict[str, Any] = {}
    if isinstance(model, bytes):
        source = model
    elif isinstance(model, str | Path):
        source = str(model)
    else:
        parts = packed(model, more_outputs=more_outputs)
        source = parts.content
        external = {
            name: ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in parts.external_initializers.items()
        }
        if external:
            options.add_external_initializers(list(external), list(external.values()))
    providers = _providers.get()
    with translated("loading the model"):
        inner = ort.InferenceSession(
            source,
            options,
            providers=[_with_options(provider) for provider in providers],
            disabled_optimizers=list(disabled),
        )
    started = _started(inner)
    failed = [_name(provider) for provider in providers if _name(provider) not in started]
    if failed:
        raise _ProviderNotStartedError(
            f"onnxruntime could not start {', '.join(failed)} and would use {', '.join(started)}: "
            f"its log names the library that is missing{_conflict()}"
        )
    return inner, external
