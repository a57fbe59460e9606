"""The sub-commands that work on a model: `recalibrate`, `inspect`, `fold`, `plan`, `demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnrecal_client.cli import options
from bnrecal_client.cli.click_support import Choice, Command, Option, Positional
from bnrecal_client.cli.data.preprocess_files import PRESETS
from bnrecal_client.cli.options import COUNT, DATA, FILE, PATH, Number, run_of
from bnrecal_client.options import METHODS, TARGETS

if TYPE_CHECKING:
    import click

__all__ = ["demo", "fold", "inspect", "plan", "recalibrate"]

_SECTION = "Recalibrate"
_DATA, _STATISTICS, _LABELS, _DEPLOYMENT = "Data", "Statistics", "Labels", "Deployment"
_ESTIMATORS = (
    "auto",
    "auto:varied",
    "replace",
    "shrink",
    "prior:64",
    "prior:64:mixture",
    "momentum:0.1",
)


def recalibrate() -> Command:
    """Return `bnrecal recalibrate`."""
    return Command(
        "recalibrate",
        run=run_of("recalibrate"),
        section=_SECTION,
        summary="recompute a model's BatchNorm statistics from data of a new domain",
        description="Recompute the BatchNorm statistics of an ONNX model from unlabeled data of a "
        "new domain, fold BatchNorm into the weights, verify, and write the result.",
        examples=(
            "bnrecal recalibrate model.onnx new_domain.npy",
            "bnrecal recalibrate model.onnx photos/ --preprocess imagenet --report report.html",
            "bnrecal recalibrate model.onnx photos/ --preprocess imagenet --labels labels.csv",
            "bnrecal recalibrate folded.onnx photos/ --preprocess unit --source training_photos/",
            "bnrecal recalibrate model.onnx new_domain.npy --server http://127.0.0.1:8000",
        ),
        params=[
            Positional("model", metavar="MODEL", type=FILE, text="ONNX file, BatchNorm kept"),
            Positional(
                "data",
                metavar="DATA...",
                type=DATA,
                nargs=-1,
                required=True,
                text=".npy, .npz or .safetensors files, or folders of them; first axis = samples. "
                "With --preprocess: images (.jpg, .png, .webp, .bmp, .gif, .tiff), folders, .tar "
                "or .zip archives of them. With --server: URLs of objects that the server reads, "
                "such as s3://bucket/{000..999}.tar",
            ),
            *_data(),
            *_statistics(),
            *_labels(),
            *_deployment(),
            *options.output_files("MODEL.recalibrated.onnx in the current folder"),
            options.force(
                "allow an output to overwrite an input, and write the model even if the verdict is "
                "do-not-deploy"
            ),
            *options.server(local=True),
            *_recalibration(),
            *options.reporting(),
        ],
    )


def _recalibration() -> list[click.Parameter]:
    section = "Server"
    return [
        Option(
            "--name",
            metavar="TEXT",
            default="",
            section=section,
            help="a name for the recalibration, which the server's list shows and searches",
        ),
        Option(
            "--tag",
            "tags",
            metavar="TEXT",
            multiple=True,
            section=section,
            help="a word by which the server's list groups recalibrations; may be repeated",
        ),
        Option(
            "--connections",
            metavar="N",
            type=COUNT,
            section=section,
            help="batches sent to the server at the same time, 1 to 16 (default 4)",
        ),
        Option(
            "--resume",
            metavar="ID",
            section=section,
            help="continue an interrupted recalibration; the other arguments must be the same",
        ),
    ]


def _data() -> list[click.Parameter]:
    return [
        Option(
            "--preprocess",
            metavar="NAME|FILE",
            type=Choice(*PRESETS, others=True),
            section=_DATA,
            help="preprocessing of each image: imagenet, unit (0 to 1), tf (-1 to 1), caffe or "
            "none (0 to 255), at the size of the model's input; or a JSON file: bnrecal's (resize, "
            "crop, mean, std, …), a Hugging Face preprocessor_config.json, or a timm config.json",
        ),
        Option(
            "--source",
            metavar="PATH",
            type=DATA,
            multiple=True,
            section=_DATA,
            help="unlabeled samples of the domain that the model was trained on, of the same kind "
            "as DATA: inserts BatchNorm layers into a model that has none, such as a folded one; "
            "may be repeated",
        ),
        Option(
            "--batch-size",
            metavar="N",
            type=COUNT,
            default=32,
            section=_DATA,
            help="samples per batch (default 32)",
        ),
        Option(
            "--limit",
            metavar="N",
            type=COUNT,
            section=_DATA,
            help="use only the first N samples",
        ),
        Option(
            "--max-samples",
            metavar="N",
            type=COUNT,
            section=_DATA,
            help="choose N samples of DATA, independent of their order",
        ),
        Option(
            "--seed",
            metavar="N",
            type=Number(int, minimum=0, what="an integer"),
            default=0,
            section=_DATA,
            help="seed of that choice (default 0)",
        ),
        Option(
            "--skip-bad",
            is_flag=True,
            section=_DATA,
            help="leave samples with NaN or Inf and unreadable images out, and list them",
        ),
        Option(
            "--allow-mismatch",
            is_flag=True,
            section=_DATA,
            help="continue where DATA cannot be what the model was trained on",
        ),
    ]


def _statistics() -> list[click.Parameter]:
    return [
        Option(
            "--method",
            metavar="|".join(METHODS),
            type=Choice(*METHODS),
            default="exact",
            section=_STATISTICS,
            help="exact: layer by layer in eval mode; batch: one train-mode pass (default exact)",
        ),
        Option(
            "--estimator",
            metavar="NAME",
            type=Choice(*_ESTIMATORS, others=True, key=lambda value: value.partition(":")[0]),
            section=_STATISTICS,
            help="auto (default; replace with --method batch), auto:varied, replace, shrink, "
            "prior:64, prior:64:mixture or momentum:0.1",
        ),
        Option(
            "--layers",
            metavar="GLOB",
            multiple=True,
            section=_STATISTICS,
            help="layers to recalibrate; '!GLOB' excludes; may be repeated (default all)",
        ),
    ]


def _deployment() -> list[click.Parameter]:
    return [
        Option(
            "--opset",
            metavar="N",
            type=COUNT,
            section=_DEPLOYMENT,
            help="opset of the models to write (default the source's, or what --target supports)",
        ),
        Option(
            "--target",
            metavar="NAME",
            type=Choice(*TARGETS),
            section=_DEPLOYMENT,
            help=f"{', '.join(TARGETS)}: where the folded model is deployed; one with an operator "
            "that the target lacks is refused",
        ),
        Option(
            "--providers",
            metavar="NAME",
            multiple=True,
            section=_DEPLOYMENT,
            help="execution provider of onnxruntime to run with, such as CUDAExecutionProvider; "
            "may be repeated, in order of preference; not with --server",
        ),
    ]


def _labels() -> list[click.Parameter]:
    return [
        Option(
            "--labels",
            metavar="PATH",
            type=PATH,
            section=_LABELS,
            help="labels, which decide the verdict: .npy of integer classes for the first samples "
            "of DATA; for images also .csv (file,label) or a folder with one folder for each class",
        ),
        Option(
            "--classes",
            metavar="FILE",
            type=FILE,
            section=_LABELS,
            help="names of the classes in the order of the model's output, one per line, for "
            "labels that are names",
        ),
        Option(
            "--metric",
            metavar="MODULE:FUNCTION",
            section=_LABELS,
            help="scores labeled samples instead of the error: function(outputs, labels), the "
            "higher the better; the module is also searched in the current folder",
        ),
        Option(
            "--max-drop",
            metavar="DROP",
            type=Number(float, minimum=0, what="a number"),
            section=_LABELS,
            help="drop of the accuracy or the metric that the verdict tolerates (default 0)",
        ),
    ]


def inspect() -> Command:
    """Return `bnrecal inspect`."""
    return Command(
        "inspect",
        run=run_of("models", "inspect"),
        section=_SECTION,
        summary="list a model's BatchNorm layers and inputs, and find its preprocessing",
        description="List an ONNX model's inputs, outputs and BatchNorm layers, and why a layer "
        "cannot be recalibrated. With --images, also rank the common preprocessings by how close "
        "they bring the images to what the model was trained on.",
        examples=(
            "bnrecal inspect model.onnx",
            "bnrecal inspect model.onnx --images photos/",
        ),
        params=[
            Positional("model", metavar="MODEL", type=FILE, text="ONNX file"),
            Option(
                "--images",
                metavar="PATH",
                type=PATH,
                multiple=True,
                help="an image, a folder or an archive of images, of which 64 are read, to find "
                "the --preprocess that fits the model; may be repeated",
            ),
            *options.reporting(quiet="nothing but errors"),
        ],
    )


def fold() -> Command:
    """Return `bnrecal fold`."""
    return Command(
        "fold",
        run=run_of("models", "fold"),
        section=_SECTION,
        summary="fold a model's BatchNorm into its weights, without recalibrating",
        description="Fold the BatchNorm layers of an ONNX model into neighboring weights, with "
        "their present statistics, verify that the result computes the same, and list what "
        "happened to each layer.",
        examples=("bnrecal fold model.onnx -o folded.onnx",),
        params=[
            Positional("model", metavar="MODEL", type=FILE, text="ONNX file, BatchNorm kept"),
            Positional(
                "data",
                metavar="[DATA]...",
                type=PATH,
                nargs=-1,
                text="samples for the verification, at most 32; generated samples are always used",
            ),
            Option(
                "-o",
                "--output",
                metavar="FILE",
                type=FILE,
                required=True,
                section="Files to write",
                help="the folded model",
            ),
            options.force("allow an output to overwrite an input"),
            *options.reporting(quiet="nothing but errors"),
        ],
    )


def plan() -> Command:
    """Return `bnrecal plan`."""
    number = Number(float, minimum=0, what="a number")
    numbers = {
        "samples": ("N", "number of samples, such as 1e6"),
        "nodes": ("N", "number of machines (default: one, and as many as need no files)"),
        "cores": ("N", "cores of each machine (default 16)"),
        "memory": ("GIB", "memory of each machine in GiB (default 96)"),
        "disk": ("GBS", "rate of each machine's disk in GB/s (default 1)"),
    }
    summary = "predict memory, time and machines of a recalibration of many samples"
    return Command(
        "plan",
        run=run_of("models", "plan"),
        section=_SECTION,
        summary=summary,
        description=f"{summary.capitalize()}, from a short run on generated ones.",
        examples=("bnrecal plan --model model.onnx --samples 1e6 --shape 3x224x224",),
        params=[
            Option("--model", metavar="MODEL", type=FILE, required=True, help="ONNX file"),
            Option(
                "--shape",
                metavar="CxHxW",
                help="shape of a sample, such as 3x224x224, where the model leaves sizes free",
            ),
            *(
                Option(
                    f"--{name}", metavar=unit, type=number, required=name == "samples", help=text
                )
                for name, (unit, text) in numbers.items()
            ),
            *options.reporting(quiet="nothing but errors"),
        ],
    )


def demo() -> Command:
    """Return `bnrecal demo`."""
    return Command(
        "demo",
        run=run_of("demo"),
        section=_SECTION,
        summary="see a recalibration at work on generated digits, in half a minute",
        description="Build a small network that reads digits, generate digits of a new domain "
        "(dark, noisy, of low contrast), and recalibrate the network for them. The files stay in "
        "FOLDER for commands of your own. Needs neither torch nor a download.",
        examples=("bnrecal demo", "bnrecal demo /tmp/demo"),
        params=[
            Positional(
                "folder",
                metavar="[FOLDER]",
                type=PATH,
                required=False,
                default="bnrecal-demo",
                text="where the files are written (default bnrecal-demo)",
            ),
            options.force("write into a folder that is not empty"),
            *options.reporting(),
        ],
    )
