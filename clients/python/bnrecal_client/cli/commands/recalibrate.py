"""`bnrecal recalibrate`: over HTTP with --server, in this process without."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from bnrecal_client._encoding.samples import SampleFilter
from bnrecal_client._library import Metric
from bnrecal_client.cli import arguments
from bnrecal_client.cli.data.array_batches import DataSet, open_data
from bnrecal_client.cli.data.image_files import ImageSet, open_images
from bnrecal_client.cli.data.labels import Labels, labeled
from bnrecal_client.cli.data.naming import naming_the_file
from bnrecal_client.cli.data.presets import PRESETS, preset
from bnrecal_client.cli.in_process import LocalResult, classes_of, inspect_file, recalibrate_file
from bnrecal_client.cli.metric import load_metric
from bnrecal_client.cli.output import deliver
from bnrecal_client.errors import BatchError, OptionError, RecalibrationFailed
from bnrecal_client.models import SkippedSample
from bnrecal_client.options import METHODS, Options
from bnrecal_client.progress import progress_display
from bnrecal_client.result import Result

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "recalibrate",
        help="recompute a model's BatchNorm statistics from data of a new domain",
        description="Recompute the BatchNorm statistics of an ONNX model from unlabeled data of "
        "a new domain, fold BatchNorm into the weights, verify, and write the result.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX file, BatchNorm kept")
    _add_data(parser)
    _add_statistics(parser)
    parser.add_argument(
        "--labels",
        metavar="PATH",
        type=Path,
        help="labels, which decide the verdict: .npy of integer classes for the first samples of "
        "DATA; for images also .csv (file,label) or a folder with one folder for each class",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        type=Path,
        help="names of the classes in the order of the model's output, one per line, for labels "
        "that are names",
    )
    parser.add_argument(
        "--metric",
        metavar="MODULE:FUNCTION",
        help="scores labeled samples instead of the error: function(outputs, labels), the higher "
        "the better; the module is also searched in the current folder",
    )
    parser.add_argument(
        "--max-drop",
        type=arguments.fraction,
        metavar="DROP",
        help="drop of the accuracy or the metric that the verdict tolerates (default 0)",
    )
    parser.add_argument(
        "--allow-mismatch",
        action="store_true",
        help="continue where DATA cannot be what the model was trained on",
    )
    parser.add_argument(
        "--connections",
        type=arguments.positive,
        metavar="N",
        help="batches sent to the server at the same time, 1 to 16 (default 4)",
    )
    parser.add_argument("--resume", metavar="ID", help="continue a recalibration of the server")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    arguments.add_outputs(parser, "MODEL.recalibrated.onnx in the current folder")
    arguments.add_force(
        parser,
        "allow an output to overwrite an input, and write the model even if the verdict is "
        "do-not-deploy",
    )
    arguments.add_server(parser, required=False)
    arguments.add_common(parser)
    parser.set_defaults(command=run)


def _add_data(parser: ArgumentParser) -> None:
    """Add the arguments about the data."""
    parser.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        nargs="+",
        help=".npy, .npz or .safetensors files, or folders of them; first axis = samples. With "
        "--preprocess: images (.jpg, .png, .webp, .bmp, .gif, .tiff), folders, .tar or .zip "
        "archives of them",
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        type=Path,
        action="extend",
        nargs="+",
        help="unlabeled samples of the domain that the model was trained on, of the same kind as "
        "DATA: inserts BatchNorm layers into a model that has none, such as a folded one",
    )
    parser.add_argument(
        "--preprocess",
        metavar="NAME|FILE",
        help="preprocessing of each image: imagenet, unit (0 to 1), tf (-1 to 1), caffe or none (0 "
        "to 255), at the size of the model's input; or a JSON file (resize, crop, mean, std, …)",
    )
    parser.add_argument(
        "--batch-size",
        type=arguments.positive,
        default=32,
        metavar="N",
        help="samples per batch (default %(default)s)",
    )
    parser.add_argument(
        "--limit", type=arguments.positive, metavar="N", help="use only the first N samples"
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave samples with NaN or Inf and unreadable images out, and list them",
    )


def _add_statistics(parser: ArgumentParser) -> None:
    """Add the options about the statistics and the layers."""
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="exact",
        help="exact: layer by layer in eval mode; batch: one train-mode pass (default %(default)s)",
    )
    parser.add_argument(
        "--estimator",
        metavar="NAME",
        help="auto (default; replace with --method batch), auto:varied, replace, shrink, prior:16, "
        "prior:16:mixture or momentum:0.1",
    )
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        metavar="GLOB",
        help="layers to recalibrate; '!GLOB' excludes (default all)",
    )


def run(args: Namespace) -> int:
    """Recalibrate, write the files and print a summary."""
    options = Options.of(
        method=args.method,
        estimator=args.estimator,
        layers=args.layers,
        preprocess=None if args.preprocess is None else _preprocess(args),
        allow_mismatch=args.allow_mismatch,
    )
    default = Path(f"{args.model.stem}.recalibrated.onnx")
    sources = () if args.force else (args.model, *args.data, *(args.source or ()))
    outputs = arguments.outputs_of(args, default, sources=sources)
    bad, bad_source = (SampleFilter(), SampleFilter()) if args.skip_bad else (None, None)
    find = open_data if options.preprocess is None else open_images
    data = find(args.data, batch_size=args.batch_size, limit=args.limit, bad=bad)
    source = None
    if args.source is not None:
        source = find(args.source, batch_size=args.batch_size, limit=None, bad=bad_source)
    stream = _Stream(data)
    run_on = _remote if args.server else _local
    try:
        result = run_on(args, stream, source, options)
    except (BatchError, RecalibrationFailed) as error:
        fault = error if isinstance(error, BatchError) else error.__cause__
        if not isinstance(fault, BatchError):
            raise
        # The source stream is read completely before the other one.
        read = data if source is None or stream.begun else source
        raise naming_the_file(fault, read) from error
    if bad is not None:
        skipped = _named(bad.skipped, data)
        if source is not None and bad_source is not None:
            skipped += _named(bad_source.skipped, source)
        result = result.with_skipped(skipped)
    return deliver(args, result, outputs, data=data)


class _Stream:
    """Data that record whether they have been read.

    Attributes:
        begun: whether the first batch has been asked for.
    """

    def __init__(self, data: DataSet | ImageSet) -> None:
        self._data = data
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


def _preprocess(args: Namespace) -> Mapping[str, object]:
    """Return the preprocessing in JSON form, from a preset or a file."""
    if args.preprocess not in PRESETS:
        return _read_preprocess(Path(args.preprocess))
    if args.server:
        with arguments.connect(args) as client:
            inputs = client.upload(args.model).inputs
    else:
        inputs = inspect_file(args.model).inputs
    return preset(args.preprocess, [tensor.shape for tensor in inputs])


def _read_preprocess(path: Path) -> Mapping[str, object]:
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--preprocess {path} is not one of {', '.join(PRESETS)}, and cannot be read as JSON: "
            f"{error}"
        ) from error
    if not isinstance(form, dict):
        raise OptionError(f'--preprocess {path} does not hold an object, like {{"resize": 256}}')
    return form


def _remote(
    args: Namespace, data: _Stream, source: DataSet | ImageSet | None, options: Options
) -> Result:
    with arguments.connect(args) as client:
        return client.recalibrate(
            args.model,
            data,
            method=options.method,
            estimator=options.estimator,
            layers=options.layers,
            preprocess=options.preprocess,
            allow_mismatch=options.allow_mismatch,
            progress=_progress(args),
            resume=args.resume,
            unfolded=args.unfolded is not None,
            connections=args.connections,
            evaluate=_labeled(args, images=options.preprocess is not None),
            metric=_metric(args),
            max_drop=args.max_drop or 0.0,
            source_batches=source,
        )


def _local(
    args: Namespace, data: _Stream, source: DataSet | ImageSet | None, options: Options
) -> LocalResult:
    if args.resume is not None:
        raise OptionError("--resume continues a recalibration of a server: pass --server")
    if args.connections is not None:
        raise OptionError("--connections applies to a server: pass --server")
    pairs = _labeled(args, images=options.preprocess is not None)
    with progress_display(_progress(args)) as notify:
        return recalibrate_file(
            args.model,
            data,
            options,
            notify=notify,
            evaluate=pairs,
            metric=_metric(args),
            max_drop=args.max_drop or 0.0,
            source_batches=source,
        )


def _labeled(args: Namespace, *, images: bool) -> Iterator[Any] | None:
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
    return labeled(labels, args.data, images=images, batch_size=args.batch_size, bad=bad)


def _metric(args: Namespace) -> Metric | None:
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


def _progress(args: Namespace) -> bool | None:
    return False if args.quiet else None
