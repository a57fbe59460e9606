"""The options of a recalibration: the forms that callers may use, and the JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, Required, TypedDict, get_args

from bnrecal_client.errors import OptionError, VerdictError

if TYPE_CHECKING:
    from bnrecal_client.result import Result

__all__ = [
    "METHODS",
    "TARGETS",
    "Estimator",
    "EstimatorForm",
    "Method",
    "OnVerdict",
    "OptionArguments",
    "Options",
    "PreprocessForm",
    "ResizeForm",
    "Target",
    "accepted",
    "check_on_verdict",
]

Method = Literal["exact", "batch"]
METHODS: tuple[Method, ...] = get_args(Method)
Target = Literal["onnxruntime", "tensorrt", "openvino", "rknn", "coreml"]
"""Where a model is deployed."""
TARGETS: tuple[str, ...] = get_args(Target)


class EstimatorForm(TypedDict, total=False):
    """The JSON form of an estimator; docs/estimators.md describes the members."""

    name: Required[Literal["auto", "replace", "shrink", "prior", "momentum"]]
    varied: bool
    samples: float
    mixture: bool
    momentum: float


Estimator = str | EstimatorForm
"""A short form such as `"shrink"` or `"prior:64"`, or the JSON form."""


class ResizeForm(TypedDict, total=False):
    """The JSON form of a resizing step; docs/images.md describes the members."""

    size: Required[int | Sequence[int]]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
    antialias: bool


class PreprocessForm(TypedDict, total=False):
    """The JSON form of a preprocessing of images; docs/images.md describes the members."""

    orientation: Literal["ignore", "apply"]
    color: Literal["rgb", "bgr", "gray"]
    resize: int | Sequence[int] | ResizeForm | None
    crop: int | Sequence[int] | None
    scale: float
    mean: float | Sequence[float]
    std: float | Sequence[float]
    layout: Literal["nchw", "nhwc"]
    dtype: Literal["float32", "float16", "bfloat16", "float64", "uint8"]


class OptionArguments(TypedDict, total=False):
    """The options of a recalibration as keyword arguments; `Client.recalibrate` describes them."""

    method: Method
    estimator: Estimator | None
    layers: Sequence[str] | None
    preprocess: PreprocessForm | None
    allow_mismatch: bool
    opset: int | None
    target: Target | None
    max_samples: int | None
    seed: int
    name: str
    tags: Sequence[str]


_ESTIMATORS = ("auto", "replace", "shrink", "prior", "momentum")
_HOW = "use a short form such as auto or prior:64, or the JSON form"


OnVerdict = Literal["return", "raise"]


def check_on_verdict(value: str) -> None:
    """Check the value of `on_verdict=`.

    Raises:
        OptionError: it is unknown.
    """
    if value not in get_args(OnVerdict):
        raise OptionError(f"on_verdict is {value!r}; expected 'return' or 'raise'")


def accepted(result: Result, on_verdict: OnVerdict) -> Result:
    """Return a result, unless its verdict is `do-not-deploy` and the caller wants an error.

    Raises:
        VerdictError: both hold.
    """
    verdict = result.verdict
    if on_verdict == "raise" and verdict is not None and verdict.is_rejection:
        raise VerdictError(
            verdict.sentence, result=result, recalibration_id=result.recalibration_id
        )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one recalibration.

    Attributes:
        method: `exact` or `batch`.
        estimator: short form such as `prior:64`, which the server or bn_ops parses, or JSON form;
            None for the default of the server or bn_ops.
        layers: globs to include, `"!glob"` to exclude; None means all.
        preprocess: preprocessing of images, in JSON form; None where batches are arrays.
        allow_mismatch: whether data that cannot be what the model was trained on is only a warning.
        opset: version of ONNX's default operator set of the resulting models; None for the
            source's, or the nearest that the target supports.
        target: where the folded model is deployed; None for no check of its operators.
        max_samples: number of samples that the run chooses of the stream; None for all.
        seed: seed of that choice.
        name: a name for people; has no effect on the run.
        tags: words by which people group recalibrations.
    """

    method: str = "exact"
    estimator: str | Mapping[str, object] | None = None
    layers: tuple[str, ...] | None = None
    preprocess: Mapping[str, object] | None = None
    allow_mismatch: bool = False
    opset: int | None = None
    target: Target | None = None
    max_samples: int | None = None
    seed: int = 0
    name: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.target is not None and self.target not in TARGETS:
            raise OptionError(f"target is {self.target!r}; expected one of {', '.join(TARGETS)}")
        if self.opset is not None and (isinstance(self.opset, bool) or self.opset < 1):
            raise OptionError(f"opset takes a version such as 17, got {self.opset!r}")
        if self.method not in METHODS:
            near = _nearest(self.method, METHODS)
            raise OptionError(
                f"method is {self.method!r}; expected one of {', '.join(METHODS)}{near}"
            )
        if isinstance(self.estimator, str):
            name = self.estimator.partition(":")[0]
            # A newer server may know others, so only what resembles a known name is an error.
            if name not in _ESTIMATORS and (near := _nearest(name, _ESTIMATORS)):
                raise OptionError(f"unknown estimator {self.estimator!r}{near}")
        elif self.estimator is not None and not isinstance(self.estimator, Mapping):
            raise OptionError(f"estimator is {self.estimator!r}: {_HOW}")
        if isinstance(self.estimator, Mapping) and not isinstance(self.estimator.get("name"), str):
            raise OptionError(f"the estimator {dict(self.estimator)!r} has no name: {_HOW}")

    @classmethod
    def of(
        cls,
        *,
        method: str = "exact",
        estimator: str | Mapping[str, object] | None = None,
        layers: Sequence[str] | None = None,
        preprocess: Mapping[str, object] | None = None,
        allow_mismatch: bool = False,
        opset: int | None = None,
        target: Target | None = None,
        max_samples: int | None = None,
        seed: int = 0,
        name: str = "",
        tags: Sequence[str] = (),
    ) -> Options:
        """Return the options.

        Raises:
            OptionError: an option is invalid.
        """
        for option, noun, value in (("layers", "patterns", layers), ("tags", "words", tags)):
            if isinstance(value, str):
                raise OptionError(f"{option} takes a list of {noun}, got the string {value!r}")
        if preprocess is not None and not isinstance(preprocess, Mapping):
            raise OptionError(
                f"preprocess is {preprocess!r}: use the JSON form, such as "
                '{"resize": 256, "crop": 224} (docs/images.md)'
            )
        return cls(
            method=method,
            estimator=dict(estimator) if isinstance(estimator, Mapping) else estimator,
            layers=None if layers is None else tuple(layers),
            preprocess=None if preprocess is None else dict(preprocess),
            allow_mismatch=allow_mismatch,
            opset=opset,
            target=target,
            max_samples=max_samples,
            seed=seed,
            name=name,
            tags=tuple(tags),
        )

    def differences(self, stored: Mapping[str, object]) -> list[str]:
        """Return the names of the options that differ from those of a stored recalibration.

        Only members that are set here are compared: the server adds defaults of an estimator.
        """
        found = stored.get("estimator")
        held = found if isinstance(found, Mapping) else {}
        if self.estimator is None:
            different = []
        elif isinstance(self.estimator, str):
            different = [] if _same_estimator(self.estimator, held) else ["estimator"]
        else:
            different = [
                f"estimator {key}"
                for key, value in self.estimator.items()
                if held.get(key) != value
            ]
        if stored.get("method") != self.method:
            different.append("method")
        layers = stored.get("layers")
        if (None if self.layers is None else list(self.layers)) != layers:
            different.append("layers")
        if not _same_preprocess(self.preprocess, stored.get("preprocess")):
            different.append("preprocess")
        if stored.get("allow_mismatch", False) != self.allow_mismatch:
            different.append("allow_mismatch")
        different += [
            name
            for name in ("opset", "target", "max_samples")
            if stored.get(name) != getattr(self, name)
        ]
        if stored.get("seed", 0) != self.seed:
            different.append("seed")
        return different


def _nearest(word: object, known: Sequence[str]) -> str:
    close = get_close_matches(str(word), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _same_preprocess(value: Mapping[str, object] | None, stored: object) -> bool:
    """Return whether preprocessing equals the stored one, which has the long form."""
    if value is None or not isinstance(stored, Mapping):
        return value is stored
    return all(_covers(stored.get(key), _long(key, member)) for key, member in value.items())


def _long(key: str, value: object) -> object:
    """Return the long form of a member of `preprocess`."""
    if key == "resize" and value is not None and not isinstance(value, Mapping):
        return {"size": value}
    if key == "crop" and isinstance(value, int):
        return [value, value]
    return [value] if key in {"mean", "std"} and isinstance(value, int | float) else value


def _covers(stored: object, value: object) -> bool:
    if isinstance(value, Mapping) and isinstance(stored, Mapping):
        return all(_covers(stored.get(key), member) for key, member in value.items())
    return stored == (list(value) if isinstance(value, tuple) else value)


def _same_estimator(value: str, stored: Mapping[str, object]) -> bool:
    """Return whether a short form such as `prior:16` has the name and options of a JSON form.

    A number is the value of an option; a word is a flag that is true.
    """
    name, *arguments = value.split(":")
    options = [
        key if member is True else member
        for key, member in stored.items()
        if key != "name" and member is not None and member is not False
    ]
    given = [_number_or_word(argument) for argument in arguments]
    return name == stored.get("name") and sorted(map(str, given)) == sorted(
        str(_number_or_word(option)) for option in options
    )


def _number_or_word(option: object) -> float | str:
    try:
        return float(str(option))
    except ValueError:
        return str(option)
