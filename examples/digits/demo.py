"""Recalibrate an MNIST network for scikit-learn's digits through the server, and measure the error.

Run it from the root of the repository: `make demo`, or `python -m examples.digits.demo`. It exits
with 0 if the error on digits outside the stream falls by at least 20 points.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

# onnxruntime reads this on import; otherwise it writes id files into the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from bnrecal_client import BnrecalError, Client
from examples.digits.data import (
    LabeledImages,
    load_saved,
    load_sklearn_digits,
    ragged_batches,
    split,
)
from examples.digits.local_server import ServerNotStartedError, local_server
from examples.digits.outcome import Outcome, error_percent, format_outcome

MODEL = Path(__file__).with_name("mnist_resnet.onnx")
STREAM_DIGITS = 900  # of 1,797; the rest measure the error
MIN_GAIN = 20.0  # points of error; a smaller gain means that recalibration is broken


def main() -> int:
    """Run the demo; return 0 if the error fell enough, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--server", help="use this server instead of starting one")
    parser.add_argument("--digits", type=Path, help="npz file that examples.digits.data wrote")
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    # Without this, `kill` would end the demo but leave its server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    digits = load_sklearn_digits() if options.digits is None else load_saved(options.digits)
    stream, held_out = split(digits, STREAM_DIGITS)
    print("Recalibrating an MNIST network for scikit-learn's digits, without labels.\n", flush=True)
    try:
        with local_server() if options.server is None else nullcontext(options.server) as url:
            outcome = recalibrate(url, stream, held_out, options.output)
    except (BnrecalError, ServerNotStartedError) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    print(format_outcome(outcome))
    if outcome.gained < MIN_GAIN:
        print(f"the error fell by only {outcome.gained:.1f} points", file=sys.stderr)
        return 1
    return 0


def recalibrate(url: str, stream: LabeledImages, held_out: LabeledImages, output: Path) -> Outcome:
    """Send the images of the stream (not its labels), fetch the result and measure the error."""
    batches = ragged_batches(stream.images)
    began = time.perf_counter()
    with Client(url) as client:
        result = client.recalibrate(MODEL, batches, poll=0.1)
    seconds = time.perf_counter() - began
    output.mkdir(parents=True, exist_ok=True)
    files = [
        result.save(output / "mnist_resnet.recalibrated.onnx"),
        result.save_report(output / "report.html"),
    ]
    return Outcome(
        before=error_percent(MODEL.read_bytes(), held_out),
        after=error_percent(files[0].read_bytes(), held_out),
        held_out=len(held_out.labels),
        seconds=seconds,
        report=result.report,
        files=files,
    )


if __name__ == "__main__":
    sys.exit(main())
