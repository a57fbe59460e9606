from __future__ import annotations

from pathlib import Path

from bnrecal_client.cli.output import file_size


def test_the_data_files_of_a_large_model_count_with_it(tmp_path: Path) -> None:
    model = tmp_path / "large [1].onnx"
    model.write_bytes(bytes(500))
    assert file_size(model) == "500 B"
    (tmp_path / "large [1].onnx.0.data").write_bytes(bytes(2_000))
    (tmp_path / "large [1].onnx.1.data").write_bytes(bytes(3_000))
    (tmp_path / "large 1.onnx.0.data").write_bytes(bytes(9_000))
    assert file_size(model) == "5.5 kB"
