"""Fuzz one parser with atheris: `python -m tests.soak.fuzz_parser NAME -max_total_time=60`."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["service", "bn_ops"]):
    from tests.soak.parsers import SEEDS, run_parser


def main() -> None:
    """Fuzz until the time limit, or until a fault ends the process."""
    name = sys.argv[1]
    logging.disable()  # the multipart parser logs each refused byte
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            Path(folder, str(number)).write_bytes(seed)
        words = [sys.argv[0], *sys.argv[2:], "-verbosity=0", folder]
        atheris.Setup(words, lambda data: run_parser(name, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
