"""A type checker resolves the names of the installed wheels."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.installation import Installation, build_wheels


def test_type_checkers_know_the_names(tmp_path: Path) -> None:
    wheels = build_wheels(tmp_path)
    both = Installation(tmp_path / "v", list(wheels.values()))
    (tmp_path / "use.py").write_text(
        "import bnrecal\nreveal_type(bnrecal.Shrink())\nbnrecal.adapt('m', [], methud='exact')\n"
    )
    # Reading the sources of torch and onnx takes ten seconds; our names resolve without them.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\nincremental = False\n"
        "[mypy-torch.*,onnx.*,onnxruntime.*]\nfollow_imports = skip\n"
    )
    done = both.run(
        sys.executable, "-m", "mypy", "--python-executable", both.python, "use.py", cwd=tmp_path
    )
    assert 'Revealed type is "bn_ops.core.estimators.shrink.Shrink"' in done.stdout
    assert 'Unexpected keyword argument "methud"' in done.stdout
