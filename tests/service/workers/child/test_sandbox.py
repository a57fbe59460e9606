"""What a sandboxed worker can still do; each attempt runs in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.workers.child.sandbox import landlock_version, seccomp_library
from service.workers.messages import Limits, WorkerTask

LIMITS = Limits(
    memory_bytes=1 << 30,
    file_bytes=1 << 20,
    cpu_seconds=20,
    frontier_memory_bytes=1 << 20,
    frontier_spill_bytes=1 << 20,
    threads=1,
)
PROBE = """
import json, os, sys
from pathlib import Path
from service.workers.child import resource_limits, sandbox
from service.workers.messages import WorkerTask
task = WorkerTask.from_line(sys.stdin.buffer.readline())
resource_limits.apply(task.limits)
{before}
status = sandbox.apply(task)
try:
    found = (lambda: {attempt})()
    answer = "allowed"
except MemoryError:
    answer = "MemoryError"
except OSError as error:
    answer = type(error).__name__
print(json.dumps([status, answer]))
"""


@pytest.fixture
def task(tmp_path: Path) -> WorkerTask:
    for name in ("output", "batches", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "models").mkdir()
    for name in ("models/model.onnx", "models/weights", "elsewhere/secret", "batches/0"):
        (tmp_path / name).write_text("content")
    return WorkerTask(
        kind="recalibrate",
        parent=0,
        model=str(tmp_path / "models/model.onnx"),
        batch_folder=str(tmp_path / "batches"),
        output=str(tmp_path / "output"),
        limits=LIMITS,
    )


def attempt(task: WorkerTask, code: str, before: str = "") -> tuple[dict[str, bool], str]:
    script = PROBE.format(
        attempt=code.replace("ROOT", repr(str(Path(task.output).parent))), before=before
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        input=task.to_line(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answer: list[Any] = json.loads(done.stdout)
    return answer[0], answer[1]


needs_landlock = pytest.mark.skipif(landlock_version() == 0, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(seccomp_library() is None, reason="libseccomp is missing")


@needs_landlock
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("Path(task.model).read_text()", "allowed"),
        ("Path(task.batch_folder, '0').read_text()", "allowed"),
        ("Path(task.output, 'new').write_text('x')", "allowed"),
        ("Path(task.output, 'a').mkdir()", "allowed"),
        ("__import__('colorsys')", "allowed"),
        ("Path(ROOT, 'models/weights').read_text()", "PermissionError"),
        ("Path(ROOT, 'elsewhere/secret').read_text()", "PermissionError"),
        ("Path(task.model).write_text('x')", "PermissionError"),
        ("Path(task.batch_folder, '1').write_text('x')", "PermissionError"),
        ("Path(ROOT, 'elsewhere/new').write_text('x')", "PermissionError"),
        ("os.truncate(task.model, 0)", "PermissionError"),
        ("os.unlink(task.model)", "PermissionError"),
        ("os.rename(task.model, task.output + '/stolen')", "PermissionError"),
        ("os.link(ROOT + '/elsewhere/secret', task.output + '/link')", "OSError"),
        ("Path('/etc/passwd').read_text()", "PermissionError"),
        ("os.listdir('/')", "PermissionError"),
        ("Path('/proc/1/environ').read_bytes()", "PermissionError"),
    ],
)
def test_file_access(task: WorkerTask, code: str, expected: str) -> None:
    status, found = attempt(task, code)
    assert status["landlock"]
    assert found == expected


@needs_landlock
def test_symlink_out_of_the_folder(task: WorkerTask) -> None:
    Path(task.output, "link").symlink_to(Path(task.output).parent / "elsewhere/secret")
    assert attempt(task, "Path(task.output, 'link').read_text()")[1] == "PermissionError"


@needs_seccomp
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("os.fork()", "PermissionError"),
        ("os.posix_spawn('/bin/true', ['true'], {})", "PermissionError"),
        ("os.execv(sys.executable, ['python'])", "PermissionError"),
        ("__import__('socket').socket()", "PermissionError"),
        ("__import__('socket').socketpair()", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("os.kill(os.getpid(), 0)", "allowed"),
        ("os.unshare(0x10000000) if hasattr(os, 'unshare') else os.kill(1, 0)", "PermissionError"),
        ("os.pidfd_open(os.getppid())", "PermissionError"),
        ("__import__('threading').Thread(target=print).start()", "allowed"),
    ],
)
def test_process_and_network_access(task: WorkerTask, code: str, expected: str) -> None:
    status, found = attempt(task, code.replace("target=print", "target=len, args=((),)"))
    assert status["seccomp"]
    assert found == expected


def test_probe_detects_missing_restrictions(task: WorkerTask) -> None:
    """Without the sandbox the same attempts succeed, so the tests above can fail."""
    disabled = "sandbox.apply = lambda task: {}"
    for code in ("Path('/etc/passwd').read_text()", "os.waitpid(os.fork() or os._exit(0), 0)"):
        assert attempt(task, code, before=disabled)[1] == "allowed"


def test_no_new_privileges(task: WorkerTask) -> None:
    code = "'NoNewPrivs:\\t1' in Path('/proc/self/status').read_text() or os.kill(-99, 99)"
    status, found = attempt(task, code)
    assert status["no_new_privs"]
    assert found == "allowed"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("bytearray(2 << 30)", "MemoryError"),
        ("bytearray(1 << 28)", "allowed"),
        ("Path(task.output, 'big').write_bytes(bytes(2 << 20))", "OSError"),
    ],
)
def test_resource_limits(task: WorkerTask, code: str, expected: str) -> None:
    before = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    assert attempt(task, code, before=before)[1] == expected
