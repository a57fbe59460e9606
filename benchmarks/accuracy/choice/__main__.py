"""Measure the candidates of `Auto`, and others, on every stream of the study.

`python -m benchmarks.accuracy.choice --cache FOLDER`: hours on a CPU, minutes per process on a GPU.
`--small` measures a sample of the cases in some minutes on a CPU, `--later` the rows with which a
changed rule was checked, in about half an hour, and `--letters` those of other data, in about a
quarter. Without a data set the study that needs it is left out, and the message names the package
to install.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy.choice.cases import STUDIES, Run
from benchmarks.accuracy.choice.rows import EARLY, REPLACE, SMALL, SOURCE, Row, write_rows
from benchmarks.accuracy.networks import DEFAULT_CACHE

# `--small`: every 24th case, with streams of one size.
_SMALL_EVERY, _SMALL_SIZES = 24, (16,)

# `--later`: a network that the other rows lack, one that is trained again, and some candidates.
_LATER_NETWORKS, _LATER_SIZES = ("digits2", "fashion1"), (16, 64)
_LETTER_SIZES = (8, 16, 64)
_LATER_NAMES = (SOURCE, SMALL, "share-0.1", EARLY, REPLACE)


def main() -> None:
    """Measure every case and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of networks")
    parser.add_argument("--small", action="store_true", help="measure a sample of the cases")
    parser.add_argument(
        "--later",
        action="store_true",
        help="measure the rows of accuracy-choice-later: one network each of digits and fashion",
    )
    parser.add_argument(
        "--letters", action="store_true", help="measure the rows of accuracy-choice-letters"
    )
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--output", type=Path, help="default: a file in the cache folder")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    run = Run(cache=options.cache, device=device)
    if options.small:
        run = replace(run, every=_SMALL_EVERY, sizes=_SMALL_SIZES)
    if options.later:
        run = replace(
            run,
            sizes=_LATER_SIZES,
            networks=_LATER_NETWORKS,
            changed=False,
            names=_LATER_NAMES,
        )
        options.study = ["digits", "fashion"]
    if options.letters:
        run = replace(run, sizes=_LETTER_SIZES, names=_LATER_NAMES)
        options.study = ["letters"]
    began = time.perf_counter()
    rows: list[Row] = []
    for name in options.study:
        try:
            rows += STUDIES[name](run)
        except FileNotFoundError as error:
            print(f"{name}: left out: {error}", flush=True)
        else:
            print(f"{name}: {len(rows)} rows, {time.perf_counter() - began:.0f} s", flush=True)
    if not rows:
        parser.error("none of the data sets is installed")
    note = {
        "benchmark": "accuracy-choice",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(write_rows(rows, note, options.output or options.cache / "accuracy-choice.json.gz"))


if __name__ == "__main__":
    main()
