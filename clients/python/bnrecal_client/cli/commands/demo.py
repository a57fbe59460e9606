"""`bnrecal demo`: a recalibration at work, on generated data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from bnrecal_client._library import library
from bnrecal_client.cli import output
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.cli.in_process import recalibrate_file
from bnrecal_client.cli.outputs import check_folder
from bnrecal_client.errors import OptionError
from bnrecal_client.options import Options
from bnrecal_client.progress import progress_display

__all__ = ["run"]

_SEED = 2026
_TRAINING, _STREAM, _TEST = 2000, 400, 500
_BATCH = 32


def run(args: Arguments) -> int:
    """Build the network, recalibrate it for the new domain and print the error before and after."""
    folder: Path = args.folder
    if folder.exists() and not args.force and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} is not an empty folder: name another one, or pass --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"the folder {folder} cannot be created: {error.strerror}") from error
    check_folder(folder)
    say = (lambda _: None) if args.json or args.quiet else output.say
    with library("the demo runs in this process"):
        from bnrecal.demo_network import error_of, new_domain, source_domain, trained

        say("1. A small network learns to read bright digits on black …")
        rng = np.random.default_rng(_SEED)
        source = trained(*source_domain(rng, _TRAINING))
        errors = {"source": error_of(source, *source_domain(rng, _TEST))}
        stream, _ = new_domain(rng, _STREAM)
        test = new_domain(rng, _TEST)
        errors["before"] = error_of(source, *test)
        _write(folder, source, stream, *test)
        say(
            f"   It errs on {errors['source']:.1%} of new ones, but on {errors['before']:.1%} of "
            "those of another camera, gray on gray."
        )
        say(f"2. Recalibrating on {_STREAM} unlabeled digits of that camera …")
        show = False if args.quiet or args.json else None
        with progress_display(show, samples=_STREAM) as notify:
            batches = [stream[start : start + _BATCH] for start in range(0, _STREAM, _BATCH)]
            options = Options.of(method="exact", estimator=None, layers=None)
            result = recalibrate_file(folder / "model.onnx", batches, options, notify=notify)
        result.save(folder / "recalibrated.onnx", force=True)
        result.save_report(folder / "report.html")
        errors["after"] = error_of(result.artifact.model, *test)
    if args.json:
        verdict = None if result.verdict is None else result.verdict.code
        output.print_json({"errors": errors, "verdict": verdict, "folder": str(folder)})
        return Exit.OK
    for line in _lines(folder, errors, result):
        say(line)
    return Exit.OK


def _write(folder: Path, model: Any, stream: Any, images: Any, labels: Any) -> None:
    import onnx

    onnx.save(model, folder / "model.onnx")
    np.save(folder / "new_domain.npy", stream)
    np.save(folder / "test_images.npy", images)
    np.save(folder / "test_labels.npy", labels)


def _lines(folder: Path, errors: dict[str, float], result: Any) -> list[str]:
    where = shlex.quote(str(folder))
    verdict = result.verdict
    before, after = f"{errors['before']:.1%}", f"{errors['after']:.1%}"
    return [
        f"3. Its error on {_TEST} other digits of that camera: {before} before, {after} after.",
        *([] if verdict is None else [f"   Verdict: {verdict.sentence}"]),
        "",
        f"{folder} holds the model, the data, the result and report.html. The same by hand:",
        f"  cd {where}",
        "  bnrecal recalibrate model.onnx new_domain.npy",
        "  bnrecal recalibrate model.onnx test_images.npy --labels test_labels.npy",
    ]
