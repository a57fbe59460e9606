"""Run the worker: `python -m service.workers.child`, task on stdin, answers on stdout."""

import sys

from service.workers.child.main import main

if __name__ == "__main__":
    sys.exit(main())
