"""A server in a separate process on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from tests.support.service_http import Api

CHANNELS = 4


class Server:
    """A server process on a free port, with a client."""

    def __init__(self, data: Path, **settings: object) -> None:
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        # The credentials of object storage and the collector, where a test has set them.
        passed = ("AWS_", "OTEL_")
        environment |= {key: value for key, value in os.environ.items() if key.startswith(passed)}
        environment |= {f"BNRECAL_{key.upper()}": str(value) for key, value in settings.items()}
        self.log = (data.parent / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", "--data-dir", str(data)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.fullmatch(r"bnrecal is listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert match, f"the server printed {line!r}"
        self.url = match.group(1)
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.api = Api(self.http)

    def workers(self) -> list[psutil.Process]:
        """Return the running worker processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """Kill the process with SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Terminate the server and return its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()
        return status


@contextmanager
def running(data: Path, **settings: object) -> Iterator[Server]:
    """Run a server for the duration of a `with` block."""
    server = Server(data, **settings)
    try:
        yield server
    finally:
        server.kill()


def network(size: int = 8, repeats: int = 1) -> bytes:
    """Return Conv → BatchNormalization → Relu, `repeats` times, on (N, 1, size, size) images."""
    random = np.random.default_rng(0)
    nodes, tensors, value, channels = [], [], "x", 1
    for step in range(repeats):
        weight = random.normal(size=(CHANNELS, channels, 3, 3)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{step}"))
        for name, start in (("scale", 1), ("shift", 0), ("mean", 0), ("var", 1)):
            content = np.full(CHANNELS, start, np.float32)
            tensors.append(numpy_helper.from_array(content, f"{name}{step}"))
        nodes += [
            helper.make_node("Conv", [value, f"w{step}"], [f"c{step}"], pads=[1, 1, 1, 1]),
            helper.make_node(
                "BatchNormalization",
                [f"c{step}", *(f"{name}{step}" for name in ("scale", "shift", "mean", "var"))],
                [f"n{step}"],
                name=f"bn{step}",
            ),
            helper.make_node("Relu", [f"n{step}"], [f"r{step}"]),
        ]
        value, channels = f"r{step}", CHANNELS
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, size, size])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", CHANNELS, size, size])],
        tensors,
    )
    opset = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


def images(
    seed: int, samples: int = 8, size: int = 8
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a batch for `network` with a mean and variance that differ from the model's."""
    values = np.random.default_rng(seed).normal(3.0, 2.0, size=(samples, 1, size, size))
    return values.astype(np.float32)
