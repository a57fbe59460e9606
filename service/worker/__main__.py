"""Run the worker: `python -m service.worker`, job on standard input, answers on standard output."""

import sys

from service.worker.main import main

if __name__ == "__main__":
    sys.exit(main())
