"""`bnrecal recalibrate`: over HTTP with --server, in this process without."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from bnrecal_client._encoding.samples import SampleFilter
from bnrecal_client._library import Metric
from bnrecal_client.cli import arguments
from bnrecal_client.cli.arguments import load_metric
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.data.array_batches import DataSet, naming_the_file, open_data
from bnrecal_client.cli.data.image_files import ImageSet, open_images
from bnrecal_client.cli.data.labels import Labels, labeled
from bnrecal_client.cli.data.preprocess_files import PRESETS, preset, read_preprocess
from bnrecal_client.cli.in_process import LocalResult, classes_of, inputs_of, recalibrate_file
from bnrecal_client.cli.output import deliver
from bnrecal_client.errors import BatchError, OptionError, RecalibrationFailed
from bnrecal_client.models import ReportDetails, SkippedSample
from bnrecal_client.options import Options
from bnrecal_client.progress import progress_display
from bnrecal_client.result import Result

__all__ = ["run"]

# Names of data files that the report shows.
_MAX_NAMES = 3

# Options that a command needs to repeat a run.
_REPEATED = (
    "method",
    "estimator",
    "preprocess",
    "limit",
    "max_samples",
    "seed",
    "labels",
    "classes",
    "metric",
    "max_drop",
)
_DEFAULTS = {("method", "exact"), ("seed", 0)}
_REPEATED_LISTS = ("source", "layers")
_REPEATED_FLAGS = ("skip_bad", "allow_mismatch")


def run(args: Arguments) -> int:
    """Recalibrate, write the files and print a summary."""
    arguments.choose_server(args)
    options = _options(args)
    default = Path(f"{args.model.stem}.recalibrated.onnx")
    files = [path for path in (*args.data, *args.source) if isinstance(path, Path)]
    outputs = arguments.outputs_of(
        args, default, sources=() if args.force else (args.model, *files)
    )
    if len(files) < len(args.data) + len(args.source):
        return deliver(args, _imported(args, files, options), outputs)
    streams = _Streams.open(args, images=options.preprocess is not None)
    run_on = _remote if args.server else _local
    try:
        result = run_on(args, streams, options)
    except (BatchError, RecalibrationFailed) as error:
        fault = error if isinstance(error, BatchError) else error.__cause__
        if not isinstance(fault, BatchError):
            raise
        raise naming_the_file(fault, streams.being_read) from error
    if args.skip_bad:
        result = result.with_skipped(streams.skipped())
    return deliver(args, result, outputs, data=streams.data)


def _options(args: Arguments) -> Options:
    return Options.of(
        method=args.method,
        estimator=args.estimator,
        layers=args.layers or None,
        preprocess=None if args.preprocess is None else _preprocess(args),
        allow_mismatch=args.allow_mismatch,
        opset=args.opset,
        target=args.target,
        max_samples=args.max_samples,
        seed=args.seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Streams:
    """The data of a run.

    Attributes:
        data: the stream.
        source: the source stream, if any.
        bad, bad_source: bad samples of each; None where they are errors.
        counted: the stream, to be read once.
    """

    data: DataSet | ImageSet
    source: DataSet | ImageSet | None
    bad: SampleFilter | None
    bad_source: SampleFilter | None
    counted: _Stream

    @classmethod
    def open(cls, args: Arguments, *, images: bool) -> _Streams:
        """Open the files that a command names."""
        find = open_images if images else open_data
        bad, bad_source = (SampleFilter(), SampleFilter()) if args.skip_bad else (None, None)
        data = find(args.data, batch_size=args.batch_size, limit=args.limit, bad=bad)
        source = None
        if args.source:
            source = find(args.source, batch_size=args.batch_size, limit=None, bad=bad_source)
        return cls(data=data, source=source, bad=bad, bad_source=bad_source, counted=_Stream(data))

    @property
    def being_read(self) -> DataSet | ImageSet:
        """The stream that a fault belongs to; the source stream is read completely first."""
        return self.data if self.source is None or self.counted.begun else self.source

    def skipped(self) -> list[SkippedSample]:
        """Return the samples that were left out so far, with the names of their files."""
        found = [] if self.bad is None else _named(self.bad.skipped, self.data)
        if self.source is not None and self.bad_source is not None:
            found += _named(self.bad_source.skipped, self.source)
        return found

    def details(self, args: Arguments) -> ReportDetails:
        """Return what the report says about the command."""
        return ReportDetails(
            model_name=args.model.name,
            data_name=_names(args.data),
            command=_command(args),
            skipped_samples=tuple(self.skipped()),
        )


def _names(paths: Sequence[Path | str]) -> str:
    """Return the names of a few files, and URLs, for the report."""
    names = ", ".join(
        path if isinstance(path, str) else path.name or str(path) for path in paths[:_MAX_NAMES]
    )
    more = len(paths) - _MAX_NAMES
    return f"{names} and {more} more" if more > 0 else names


def _command(args: Arguments) -> str:
    """Return a command that repeats the run in this process."""
    words = ["bnrecal", "recalibrate", str(args.model), *map(str, args.data)]
    for name in _REPEATED:
        value = getattr(args, name)
        if value is not None and (name, value) not in _DEFAULTS:
            words += [_flag(name), str(value)]
    for name in _REPEATED_LISTS:
        for value in getattr(args, name) or ():
            words += [_flag(name), str(value)]
    words += [_flag(name) for name in _REPEATED_FLAGS if getattr(args, name)]
    return shlex.join(words)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Stream:
    """Data that record whether they have been read.

    Attributes:
        samples: number of samples, bad ones included.
        begun: whether the first batch has been asked for.
    """

    def __init__(self, data: DataSet | ImageSet) -> None:
        self._data = data
        self.samples = data.samples
        self.begun = False

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        self.begun = True
        yield from self._data


def _named(skipped: Sequence[SkippedSample], data: DataSet | ImageSet) -> list[SkippedSample]:
    """Return skipped samples with the names of their files."""
    return [
        skip if skip.name is not None else structs.replace(skip, name=data.name_of(skip.index))
        for skip in skipped
    ]


def _preprocess(args: Arguments) -> Mapping[str, object]:
    """Return the preprocessing in JSON form, from a preset or a file."""
    shapes = partial(_input_shapes, args)
    if args.preprocess in PRESETS:
        return preset(args.preprocess, shapes())
    return read_preprocess(Path(args.preprocess), shapes)


def _input_shapes(args: Arguments) -> list[tuple[int | str | None, ...] | None]:
    if not args.server:
        return [tensor.shape for tensor in inputs_of(args.model)]
    with arguments.connect(args) as client:
        return [tensor.shape for tensor in client.upload(args.model).inputs]


def _remote(args: Arguments, streams: _Streams, options: Options) -> Result:
    if args.providers:
        raise OptionError("--providers applies to this process, not to a server: omit --server")
    with (
        progress_display(_progress(args), samples=_measured(args, streams)) as notify,
        arguments.connect(args) as client,
    ):
        return client.recalibrate(
            args.model,
            streams.counted,
            progress=notify,
            connections=args.connections,
            evaluate=_labeled(args, images=options.preprocess is not None),
            metric=_metric(args),
            max_drop=args.max_drop or 0.0,
            source_batches=streams.source,
            details=partial(streams.details, args),
            **_shared(args, options),
        )


def _imported(args: Arguments, files: Sequence[Path], options: Options) -> Result:
    """Recalibrate on data that the server reads."""
    if files:
        raise OptionError(f"{files[0]} is a file, other data are URLs: pass only one kind")
    if not args.server:
        raise OptionError("URLs are read by a server: pass --server")
    given = {
        "--limit": args.limit,
        "--skip-bad": args.skip_bad,
        "--connections": args.connections,
        "--providers": args.providers,
        "--labels": args.labels,
    }
    for name, value in given.items():
        if value:
            raise OptionError(f"{name} applies to data that are read here, not to URLs")
    details = ReportDetails(
        model_name=args.model.name, data_name=_names(args.data), command=_command(args)
    )
    with progress_display(_progress(args)) as notify, arguments.connect(args) as client:
        return client.recalibrate(
            args.model,
            args.data,
            source_batches=args.source or None,
            progress=notify,
            details=lambda: details,
            **_shared(args, options),
        )


def _shared(args: Arguments, options: Options) -> dict[str, Any]:
    """Return the arguments of every recalibration on a server."""
    return {
        "method": args.method,
        "estimator": args.estimator,
        "layers": options.layers,
        "preprocess": options.preprocess,  # checked by the server
        "allow_mismatch": options.allow_mismatch,
        "opset": options.opset,
        "target": options.target,
        "max_samples": options.max_samples,
        "seed": options.seed,
        "name": args.name,
        "tags": args.tags,
        "resume": args.resume,
        "unfolded": args.unfolded is not None,
    }


def _local(args: Arguments, streams: _Streams, options: Options) -> LocalResult:
    if args.resume is not None:
        raise OptionError("--resume continues a recalibration of a server: pass --server")
    if args.connections is not None:
        raise OptionError("--connections applies to a server: pass --server")
    if args.name or args.tags:
        raise OptionError("--name and --tag are for the list of a server: pass --server")
    pairs = _labeled(args, images=options.preprocess is not None)
    with progress_display(_progress(args), samples=_measured(args, streams)) as notify:
        return recalibrate_file(
            args.model,
            streams.counted,
            options,
            notify=notify,
            evaluate=pairs,
            metric=_metric(args),
            max_drop=args.max_drop or 0.0,
            source_batches=streams.source,
            providers=args.providers or None,
            details=partial(streams.details, args),
        )


def _measured(args: Arguments, streams: _Streams) -> int | None:
    """Return the number of samples that progress counts; None where it differs by phase."""
    return streams.data.samples if args.max_samples is None else None


def _labeled(args: Arguments, *, images: bool) -> Iterator[Any] | None:
    """Return the labeled samples, or raise an error about their options before any work."""
    if args.labels is None:
        for name, value in (("classes", args.classes), ("metric", args.metric)):
            if value is not None:
                raise OptionError(f"--{name} applies to labeled samples: pass --labels")
        if args.max_drop is not None:
            raise OptionError("--max-drop applies to labeled samples: pass --labels")
        return None
    classes = None if args.classes is None else _read_classes(args.classes)
    labels = Labels(path=args.labels, classes=classes, outputs=classes_of(args.model))
    bad = SampleFilter() if args.skip_bad else None
    return labeled(
        labels,
        args.data,
        images=images,
        batch_size=args.batch_size,
        integers=args.metric is None,
        bad=bad,
    )


def _metric(args: Arguments) -> Metric | None:
    return None if args.metric is None else load_metric(args.metric)


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise OptionError(f"--classes {path} cannot be read as text: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) < max(1, len(names)):
        raise OptionError(f"--classes {path} needs one name per line, each once")
    return names


def _progress(args: Arguments) -> bool | None:
    return False if args.quiet else None
