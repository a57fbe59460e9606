from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from service.workers import memory
from service.workers.memory import cgroup_bytes, run_bytes, runs_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("asked", "machine", "cgroup", "allowed"),
    [(0, 64, None, 48), (0, 64, 24, 18), (0, 8, 64, 6), (5, 64, 24, 5)],
)
def test_default_memory_for_runs(
    monkeypatch: pytest.MonkeyPatch, asked: int, machine: int, cgroup: int | None, allowed: int
) -> None:
    memory._found_bytes.cache_clear()
    monkeypatch.setattr(memory, "machine_bytes", lambda: machine * GIB)
    monkeypatch.setattr(memory, "cgroup_bytes", lambda: cgroup and cgroup * GIB)
    settings = Settings().model_copy(update={"runs_memory_bytes": asked * GIB})
    assert runs_bytes(settings) == allowed * GIB
    memory._found_bytes.cache_clear()


def test_smallest_cgroup_limit_applies(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/memory/c").mkdir(parents=True)
    (tmp_path / "root/a/b/memory.max").write_text("max\n")
    (tmp_path / "root/a/memory.max").write_text("1000\n")
    (tmp_path / "root/memory.max").write_text("9000\n")
    (tmp_path / "root/memory/c/memory.limit_in_bytes").write_text("500\n")
    own.write_text("0::/a/b\n")
    assert cgroup_bytes(own, tmp_path / "root") == 1000
    own.write_text("5:cpu,cpuacct:/c\n4:memory:/c\n")
    assert cgroup_bytes(own, tmp_path / "root") == 500
    own.write_text("0::/none\n")
    assert cgroup_bytes(own, tmp_path / "root") == 9000
    assert cgroup_bytes(tmp_path / "no file", tmp_path / "root") is None


def test_memory_of_this_machine() -> None:
    assert memory.machine_bytes() > GIB // 4
    assert (cgroup_bytes() or 1) > 0


@pytest.mark.parametrize(
    ("shards", "runner", "requested", "reserved"),
    [
        ("1", "", None, 8),
        ("4", "", None, 40),
        ("4", "", 2, 10),
        ("auto", "", None, 64),
        ("4", "ray", None, 8),
        ("auto", "ray", 2, 2),
    ],
)
def test_runs_reserve_the_memory_of_their_workers_on_this_machine(
    shards: str, runner: str, requested: int | None, reserved: int
) -> None:
    settings = Settings(shards=shards, runner=runner, runs_memory_bytes=64 * GIB)
    found = run_bytes(None if requested is None else requested * GIB, settings)
    assert found == reserved * GIB
