"""The process executor with real workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from service.errors import RefusedError, WorkerDeadlineError, WorkerDiedError
from service.settings import Settings
from service.workers.messages import RESULTS, Limits, StoredBatchRef, WorkerTask
from service.workers.process import KERNEL_VARIABLES
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import Job, Progress
from tests.support.service_process import images, network
from tests.support.waiting import until

PAGES = 2


def make_job(folder: Path, batches: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> Job:
    for name in ("model", "batches", "output"):
        (folder / name).mkdir(parents=True)
    (folder / "model/model.onnx").write_bytes(network(repeats=2))
    files = []
    pack = folder / "batches" / "some.pack"
    pack.write_bytes(b"left by a crash")
    for index, array in enumerate(batches):
        kind = "npy" if index % 2 else "safetensors"
        path = folder / "batches" / f"{index}.{kind}"
        np.save(path, array) if index % 2 else save_file({"x": array}, path)
        size, start = path.stat().st_size, None
        if index % 3 == 0:
            start = pack.stat().st_size
            pack.write_bytes(pack.read_bytes() + path.read_bytes())
            path.unlink()
            path = pack
        files.append(StoredBatchRef(name=path.name, format=kind, start=start, bytes=size))

    async def pages() -> AsyncIterator[list[StoredBatchRef]]:
        for start in range(0, len(files), PAGES):
            yield files[start : start + PAGES]

    return Job(
        model=folder / "model/model.onnx",
        inputs=[{"name": "x", "dtype": "float32", "shape": None}],
        batch_folder=folder / "batches",
        batches=pages,
        total=len(files),
        options={"method": "exact", "estimator": {"name": "replace"}, "layers": None},
        output=folder / "output",
    )


@pytest.fixture
def settings() -> Settings:
    return Settings(worker_threads=1)


async def _ignore(_: Progress) -> None:
    return


def test_run_writes_results_and_statistics(tmp_path: Path, settings: Settings) -> None:
    batches = [images(seed, samples=4 + seed) for seed in range(5)]
    batches[1] = np.asfortranarray(batches[1])
    job = make_job(tmp_path, batches)
    steps: list[Progress] = []

    async def note(step: Progress) -> None:
        steps.append(step)

    asyncio.run(ProcessExecutor(settings).run(job, note))
    assert sorted(path.name for path in job.output.iterdir()) == sorted(RESULTS)
    statistics = load_file(job.output / "statistics.safetensors")
    assert {array.dtype for array in statistics.values()} == {np.dtype(np.float64)}
    mean, var = _first_layer(np.concatenate(batches))
    # ONNX Runtime convolves in float32: a relative error of about 1e-6 for sums of 9 products.
    np.testing.assert_allclose(statistics["bn0.running_mean"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics["bn0.running_var"], var, rtol=1e-5)
    assert set(statistics) == {f"bn{n}.running_{what}" for n in (0, 1) for what in ("mean", "var")}
    phases = list(dict.fromkeys(step.phase for step in steps))
    assert phases == [p for p in ("reading", "measuring", "folding", "verifying") if p in phases]
    report = json.loads((job.output / "report.json").read_text())
    assert report["stream"]["samples"] == 30
    layers = [layer for step in steps for layer in step.layers]
    drifts = {one["name"]: one["drift"]["wasserstein"] for one in report["layers"] if one["drift"]}
    # The worker's estimator is Replace, so what was measured is what is reported.
    assert {layer.name: layer.drift for layer in layers} == drifts
    assert {step.layers_total for step in steps if step.layers} == {2}
    assert "<html" in (job.output / "report.html").read_text()


def _first_layer(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], ...]:
    """Return mean and variance of the first convolution's output, in float64."""
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    padded = np.pad(x[:, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    out = sum(
        weight[None, :, 0, i, j, None, None].astype(np.float64)
        * padded[:, None, i : i + 8, j : j + 8]
        for i in range(3)
        for j in range(3)
    )
    values = np.asarray(out)
    return values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3))


def test_invalid_model_is_rejected(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"this is not an ONNX file")
    with pytest.raises(RefusedError) as caught:
        asyncio.run(ProcessExecutor(settings).inspect(file))
    assert caught.value.refusal == "model-invalid"


def test_error_names_the_bad_batch(tmp_path: Path, settings: Settings) -> None:
    bad = images(0)
    bad[0, 0, 0, 0] = np.nan
    job = make_job(tmp_path, [images(1), images(2), bad])
    with pytest.raises(RefusedError) as caught:
        asyncio.run(ProcessExecutor(settings).run(job, _ignore))
    assert caught.value.refusal == "batch-not-finite"
    assert caught.value.details == {"batch": 2, "input": "x"}


def test_timeout_kills_the_worker(tmp_path: Path) -> None:
    job = make_job(tmp_path, [images(0)])
    executor = ProcessExecutor(Settings(worker_timeout_seconds=0.05))
    with pytest.raises(WorkerDeadlineError):
        asyncio.run(executor.run(job, _ignore))
    assert _workers() == []


def test_error_names_the_signal(tmp_path: Path, settings: Settings) -> None:
    job = make_job(tmp_path, [images(0)])

    async def run() -> None:
        task = asyncio.create_task(ProcessExecutor(settings).run(job, _ignore))
        (await asyncio.to_thread(_first_worker)).kill()
        await task

    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        asyncio.run(run())


def test_cancellation_kills_the_worker(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, [images(0)])
    sent: list[tuple[int, int]] = []
    killpg = os.killpg

    def spy(group: int, signal_number: int) -> None:
        sent.append((group, signal_number))
        killpg(group, signal_number)

    monkeypatch.setattr(os, "killpg", spy)

    async def run() -> int:
        begun = asyncio.Event()

        async def hold(_: Progress) -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(ProcessExecutor(settings).run(job, hold))
        await begun.wait()
        (worker,) = _workers()
        task.cancel()
        await asyncio.sleep(0)  # one step of the task, without waiting
        assert sent == [(worker.pid, signal.SIGKILL)]
        with pytest.raises(asyncio.CancelledError):
            await task
        return worker.pid

    assert not psutil.pid_exists(asyncio.run(run()))
    assert _workers() == []


def test_worker_environment_is_minimal(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNRECAL_SECRET", "secret")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    job = make_job(tmp_path, [images(0)])
    seen: list[dict[str, str]] = []

    async def run() -> None:
        task = asyncio.create_task(ProcessExecutor(settings).run(job, _ignore))
        seen.append((await asyncio.to_thread(_first_worker)).environ())
        await task

    asyncio.run(run())
    assert set(seen[0]) <= {
        *("PATH", "LANG", "HOME", "TMPDIR", "ORT_DISABLE_TELEMETRY"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *KERNEL_VARIABLES,
    }
    assert seen[0]["OPENBLAS_CORETYPE"] == "Haswell"


def test_sandbox_status(settings: Settings) -> None:
    found = asyncio.run(ProcessExecutor(settings).sandbox_status())
    assert found["rlimits"] is True
    assert {"no_new_privs", "landlock", "seccomp"} <= set(found)


def test_orphaned_worker_exits() -> None:
    """A worker whose parent is not the given process exits without doing anything."""
    limits = Limits(
        memory_bytes=1 << 32,
        file_bytes=1 << 20,
        cpu_seconds=9,
        frontier_memory_bytes=0,
        frontier_spill_bytes=0,
        threads=1,
    )
    spec = WorkerTask(kind="report_sandbox", parent=1, output="/", limits=limits)
    command = [sys.executable, "-I", "-m", "service.workers.child"]
    done = subprocess.run(
        command, input=spec.to_line(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


def _workers() -> list[psutil.Process]:
    return psutil.Process(os.getpid()).children(recursive=True)


def _first_worker() -> psutil.Process:
    """Wait for a worker; between fork and exec, a child has the command line of its parent."""

    def found() -> list[psutil.Process]:
        return [one for one in _workers() if "service.workers.child" in one.cmdline()]

    return until(found, lambda: "no worker was started", pause=0.005)[0]
