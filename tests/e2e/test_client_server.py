"""The clients and the command against a real server process give the same results."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

import bn_ops
from bnrecal_client import (
    AsyncClient,
    BatchError,
    Client,
    ConflictError,
    InputError,
    ModelError,
    NotFoundError,
    Progress,
    RecalibrationFailed,
    Result,
    RetryPolicy,
    TimedOut,
)
from bnrecal_client.result import encode_statistics
from tests.support.server_process import ServerProcess

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"
INPUT = "image"


def digits(samples: int, seed: int = 3) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.3, 0.4, (samples, 1, 28, 28)).astype(np.float32)


BATCHES = [digits(size, seed) for seed, size in enumerate([7, 16, 1, 16, 5])]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> Result:
    """The result of an undisturbed run, which others must equal byte for byte."""
    with Client(server.url) as client:
        return client.recalibrate(
            MODEL, BATCHES, estimator="replace", progress=False, unfolded=True
        )


def assert_same(result: Result, expected: Result) -> None:
    assert result.model == expected.model
    assert encode_statistics(result.statistics) == encode_statistics(expected.statistics)


@pytest.fixture
def other_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server, and commands started meanwhile, with kernels that are not the processor's default.

    OpenBLAS offers the kernels of Prescott on every x86-64 processor and prefers others on all
    that are in use. A worker that does not get the variable computes other last bits.
    """
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    with ServerProcess(tmp_path / "data") as running:
        yield running


def bnrecal(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnrecal_client", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=folder,
    )


def test_statistics_match_the_library(expected: Result) -> None:
    artifact = bn_ops.adapt(MODEL, BATCHES, estimator="replace")
    assert len(artifact.statistics) == 9
    for name, found in artifact.statistics.items():
        assert expected.statistics[f"{name}.running_mean"].tobytes() == found.mean.tobytes()
        assert expected.statistics[f"{name}.running_var"].tobytes() == found.var.tobytes()
    assert expected.model == artifact.model.SerializeToString(deterministic=True)
    assert expected.unfolded == artifact.unfolded.SerializeToString(deterministic=True)


def test_a_choice_of_samples_is_that_of_the_library(server: ServerProcess) -> None:
    """In another order, in other batches, over HTTP: the same samples and the same bytes."""
    samples = np.concatenate(BATCHES)
    order = np.random.default_rng(0).permutation(len(samples))
    artifact = bn_ops.adapt(MODEL, BATCHES, estimator="replace", max_samples=30, seed=4)
    with Client(server.url) as client:
        found = client.recalibrate(
            MODEL,
            [samples[order[:20]], samples[order[20:]]],
            estimator="replace",
            max_samples=30,
            seed=4,
            progress=False,
        )
    assert found.model == artifact.model.SerializeToString(deterministic=True)
    chosen = found.report["stream"]["subsample"]
    assert chosen is not None
    assert (chosen["chosen"], chosen["seen"], chosen["seed"]) == (30, 45, 4)


def test_the_sandboxed_worker_compares_in_float64(expected: Result) -> None:
    parity = expected.report["parity"]
    assert parity is not None
    assert parity["reference"] == "float64"
    assert parity["notes"] == []
    assert all(output["exact_error"] is not None for output in parity["outputs"])


def test_other_data_give_another_result(server: ServerProcess, expected: Result) -> None:
    with Client(server.url) as client:
        other = client.recalibrate(MODEL, [digits(20, 99)], estimator="replace", progress=False)
    assert encode_statistics(other.statistics) != encode_statistics(expected.statistics)


def test_encoded_statistics_match_the_server(server: ServerProcess, expected: Result) -> None:
    path = f"/v1/recalibrations/{expected.recalibration_id}/statistics"
    assert httpx.get(server.url + path).content == encode_statistics(expected.statistics)


def test_async_client_gives_same_bytes(server: ServerProcess, expected: Result) -> None:
    async def run() -> Result:
        async with AsyncClient(server.url) as client:
            return await client.recalibrate(MODEL, BATCHES, estimator="replace", progress=False)

    assert_same(asyncio.run(run()), expected)


def test_kill_between_batches(tmp_path: Path, expected: Result) -> None:
    with ServerProcess(tmp_path / "data") as server:

        def stream() -> Iterator[NDArray[np.float32]]:
            for number, batch in enumerate(BATCHES):
                yield batch
                if number in {1, 3}:
                    server.kill()
                    # Starts during the client's first retries.
                    timer = threading.Timer(0.5, server.start)
                    timer.start()
                    timers.append(timer)

        timers: list[threading.Timer] = []
        with Client(server.url) as client:
            result = client.recalibrate(MODEL, stream(), estimator="replace", progress=False)
            received = client.received(str(result.recalibration_id))
        for timer in timers:
            timer.join()
        assert len(timers) == 2
        assert [batch.samples for batch in received] in ([], [7, 16, 1, 16, 5])
        assert_same(result, expected)


def test_kill_during_concurrent_uploads(tmp_path: Path) -> None:
    batches = [digits(size, seed) for seed, size in enumerate([7, 16, 1, 16, 5, 9, 9, 9, 9, 9])]
    timers: list[threading.Timer] = []
    with ServerProcess(tmp_path / "data") as server, Client(server.url) as client:

        def kill(progress: Progress) -> None:
            if progress.phase == "sending" and progress.done == 3 and not timers:
                server.kill()
                timers.append(threading.Timer(0.5, server.start))
                timers[0].start()

        disturbed = client.recalibrate(
            MODEL, batches, estimator="replace", progress=kill, connections=4
        )
        timers[0].join()
        assert disturbed.report["stream"]["samples"] == 90
        assert_same(
            disturbed, client.recalibrate(MODEL, iter(batches), estimator="replace", progress=False)
        )


def test_kill_during_run(tmp_path: Path, expected: Result) -> None:
    with ServerProcess(tmp_path / "data") as server, Client(server.url) as client:
        opened = client.create(client.upload(MODEL).id, estimator="replace")
        for index, batch in enumerate(BATCHES):
            client.send(opened.id, index, {INPUT: batch})
        client.start(opened.id, len(BATCHES))
        server.kill()
        server.start()
        assert client.wait(opened.id, timeout=120).state == "succeeded"
        assert_same(client.fetch(opened.id), expected)


def test_resume_by_another_client(server: ServerProcess, expected: Result) -> None:
    def dies() -> Iterator[NDArray[np.float32]]:
        yield from BATCHES[:3]
        raise KeyboardInterrupt

    with Client(server.url) as client:
        with pytest.raises(KeyboardInterrupt) as caught:
            client.recalibrate(MODEL, dies(), estimator="replace", progress=False)
        name = caught.value.recalibration_id  # type: ignore[attr-defined]  # Interrupted has it
        assert [batch.index for batch in client.received(name)] == [0, 1, 2]
        with pytest.raises(ConflictError, match="batch 1 differs"):
            client.recalibrate(
                MODEL, [BATCHES[0], BATCHES[0]], estimator="replace", progress=False, resume=name
            )
    with Client(server.url) as another:
        assert_same(
            another.recalibrate(None, BATCHES, estimator="replace", progress=False, resume=name),
            expected,
        )


def test_errors_of_invalid_input(server: ServerProcess) -> None:
    good = BATCHES[0]
    poisoned = good.copy()
    poisoned[3, 0, 5, 5] = np.nan
    cases: list[tuple[object, type[Exception], str]] = [
        ({"pixels": good}, BatchError, "batch-input"),
        (good.astype(np.float64), BatchError, "batch-dtype"),
        (good[:, :, :27], BatchError, "batch-shape"),
        (good[0], BatchError, "batch-shape"),
    ]
    with Client(server.url) as client:
        for batch, kind, code in cases:
            with pytest.raises(kind) as caught:
                client.recalibrate(MODEL, [good, batch], estimator="replace", progress=False)
            assert getattr(caught.value, "code", None) == code
            assert getattr(caught.value, "batch", None) == 1
        with pytest.raises((BatchError, RecalibrationFailed)) as failed:
            client.recalibrate(MODEL, [good, poisoned], estimator="replace", progress=False)
        cause = failed.value.__cause__ or failed.value
        assert isinstance(cause, BatchError)
        assert (cause.code, cause.batch, cause.input) == ("batch-not-finite", 1, INPUT)


def test_errors_of_invalid_models_and_states(server: ServerProcess) -> None:
    with Client(server.url) as client:
        with pytest.raises(ModelError) as caught:
            client.upload(b"no model at all")
        assert caught.value.code == "model-invalid"
        opened = client.create(client.upload(MODEL).id)
        client.send(opened.id, 1, {INPUT: BATCHES[0]})
        with pytest.raises(ConflictError) as missing:
            client.start(opened.id, 3)
        assert missing.value.problem is not None
        assert missing.value.problem.members["missing"] == [0, 2]
        with pytest.raises(ConflictError, match="1"):
            client.send(opened.id, 1, {INPUT: BATCHES[1]})
        with pytest.raises(InputError) as empty:
            client.start(opened.id, 0)
        assert empty.value.code == "stream-empty"
        assert client.cancel(opened.id).state == "cancelled"
        client.delete(opened.id)
        with pytest.raises(NotFoundError):
            client.status(opened.id)


@pytest.mark.parametrize("which", ["server", "other_kernels"])
def test_command_gives_same_bytes_over_http_and_locally(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: ServerProcess = request.getfixturevalue(which)
    np.save(tmp_path / "x.npy", digits(37))
    outputs = ("-o", "f.onnx", "--unfolded", "u.onnx", "--statistics", "s.safetensors")
    printed = {}
    for way, options in (("http", ("--server", server.url)), ("local", ())):
        folder = tmp_path / way
        folder.mkdir()
        done = bnrecal(
            *(
                "recalibrate",
                MODEL,
                tmp_path / "x.npy",
                "--batch-size",
                8,
                "--estimator",
                "replace",
                "--json",
                "--quiet",  # no progress, which a slow machine would print
            ),
            *(*outputs, *options),
            folder=folder,
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed[way] = json.loads(done.stdout)
    for name in ("f.onnx", "u.onnx", "s.safetensors"):
        here, there = (tmp_path / way / name for way in printed)
        assert here.read_bytes() == there.read_bytes(), name
    for member in ("samples", "batches", "layers", "drift", "folded", "kept", "parity"):
        assert printed["http"][member] == printed["local"][member], member
    assert printed["http"]["samples"] == 37
    assert printed["http"]["batches"] == 5


@pytest.mark.parametrize("which", ["server", "other_kernels"])
def test_torch_module_gives_same_statistics(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: ServerProcess = request.getfixturevalue(which)
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3, stride=2),
        torch.nn.BatchNorm2d(6),
    )
    data = digits(24)
    with Client(server.url) as client:
        over_http = client.recalibrate(
            module, np.split(data, 3), estimator="replace", progress=False
        )
    onnx_file = bn_ops.export(module, torch.from_numpy(data[:8]))
    (tmp_path / "m.onnx").write_bytes(onnx_file.SerializeToString())
    np.save(tmp_path / "x.npy", data)
    done = bnrecal(
        *(
            "recalibrate",
            "m.onnx",
            "x.npy",
            "--batch-size",
            8,
            "--estimator",
            "replace",
            "--statistics",
            "s.safetensors",
        ),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    wire = encode_statistics(over_http.statistics)
    assert wire == (tmp_path / "s.safetensors").read_bytes()
    assert len(over_http.statistics) == 4
    if which == "other_kernels":
        return  # this process has loaded the processor's default kernels
    in_process = bn_ops.adapt(onnx_file, np.split(data, 3), estimator="replace")
    for name, found in in_process.statistics.items():
        assert over_http.statistics[f"{name}.running_mean"].tobytes() == found.mean.tobytes()
        assert over_http.statistics[f"{name}.running_var"].tobytes() == found.var.tobytes()


def test_command_folds_and_inspects(tmp_path: Path) -> None:
    inspected = json.loads(bnrecal("inspect", MODEL, "--json", folder=tmp_path).stdout)
    assert len(inspected["layers"]) == 9
    assert inspected["inputs"][0]["name"] == INPUT
    folded = json.loads(bnrecal("fold", MODEL, "-o", "f.onnx", "--json", folder=tmp_path).stdout)
    assert folded["folded"] == 9
    again = bnrecal("inspect", "f.onnx", folder=tmp_path)
    assert again.returncode == 4
    assert "export" in again.stderr


def test_exit_code_of_invalid_data(server: ServerProcess, tmp_path: Path) -> None:
    poisoned = digits(10)
    poisoned[4, 0, 0, 0] = np.inf
    np.save(tmp_path / "nan.npy", poisoned)
    np.save(tmp_path / "double.npy", digits(10).astype(np.float64))
    for name, place in (("nan.npy", "nan.npy, sample 4"), ("double.npy", "batch 0")):
        for options in (("--server", server.url), ()):
            done = bnrecal("recalibrate", MODEL, name, *options, folder=tmp_path)
            assert done.returncode == 3, (name, options, done.stderr)
            assert done.stderr.count("\n") == 1
            assert place in done.stderr
    assert not (tmp_path / "mnist_resnet.recalibrated.onnx").exists()


def test_serve_ends_on_a_signal(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bnrecal_client", "serve", "--port", "0", "--data-dir", "d"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in {0, -signal.SIGTERM}


def test_initial_timeout_covers_late_start(tmp_path: Path, expected: Result) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.kill()
        timer = threading.Timer(1.0, server.start)
        timer.start()
        with Client(server.url, retry=RetryPolicy(initial_timeout=60)) as client:
            result = client.recalibrate(MODEL, BATCHES, estimator="replace", progress=False)
        timer.join()
        assert_same(result, expected)


def test_poll_interval(server: ServerProcess) -> None:
    class Counting(httpx.HTTPTransport):
        polls = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.polls += request.method == "GET" and "/recalibrations/" in request.url.path
            return super().handle_request(request)

    transport = Counting()
    with Client(server.url, transport=transport) as client:
        opened = client.create(client.upload(MODEL).id)
        with pytest.raises(TimedOut, match="open after 1 s"):
            client.wait(opened.id, timeout=1, poll=0.5)
        client.cancel(opened.id)
    assert 1 <= transport.polls <= 8


def test_labels_decide_over_http_without_being_sent(server: ServerProcess, tmp_path: Path) -> None:
    x = digits(60, 11)
    labels = np.arange(60) % 10
    pairs = [(x[:40], labels[:40]), (x[40:], labels[40:])]
    here = bn_ops.adapt(MODEL, BATCHES, estimator="replace", evaluate=pairs).report
    with Client(server.url) as client:
        there = client.recalibrate(
            MODEL, BATCHES, estimator="replace", evaluate=pairs, progress=False
        )
        stored = client.fetch(str(there.recalibration_id))
    assert stored.report["evaluation"] is None
    assert stored.report_html != there.report_html
    assert here.verdict is not None
    assert there.report["evaluation"] == here.to_json()["evaluation"]
    assert there.report["verdict"] == here.verdict.to_json()

    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", labels)
    words = ("recalibrate", MODEL, "x.npy", "--server", server.url, "--labels", "y.npy")
    done = bnrecal(*words, "--json", "--estimator", "replace", folder=tmp_path)
    printed = json.loads(done.stdout)
    assert printed["evaluation"]["samples"] == 60
    assert done.returncode == (8 if printed["verdict"]["code"] == "do-not-deploy" else 0)
