from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.errors import StartError
from service.server import main, read_settings
from service.settings import Settings
from service.settings_loading import read, unknown_variables

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")
SECRET = "bnr_a-token-instead-of-a-hash"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bnrecal.toml"


def test_defaults() -> None:
    assert read(None, {"port": None}) == Settings()


def test_precedence_of_sources(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 1\nmax_concurrent_runs = 2\nvalidation_workers = 3\n")
    monkeypatch.setenv("BNRECAL_PORT", "10")
    monkeypatch.setenv("BNRECAL_MAX_CONCURRENT_RUNS", "20")
    found = read_settings(["--config", str(file), "--port", "100"])
    assert (found.port, found.max_concurrent_runs, found.validation_workers) == (100, 20, 3)


def test_path_of_settings_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 1\n")
    (tmp_path / "other.toml").write_text("port = 2\n")
    monkeypatch.setenv("BNRECAL_CONFIG", str(file))
    assert read(None, {}).port == 1
    assert read(tmp_path / "other.toml", {}).port == 2


def test_file_accepts_every_setting(file: Path) -> None:
    written = {
        name: f"{name} = '{file if field.default is None else field.default}'"
        if not isinstance(field.default, bool | int | float)
        else f"{name} = {str(field.default).lower()}"
        for name, field in Settings.model_fields.items()
        if name not in {"tokens", "ledger"}  # empty by default
    }
    file.write_text("\n".join(written.values()))
    found = read(file, {})
    expected = Settings(data_dir=file.parent / "bnrecal-data", tokens_file=file)
    assert found == expected


def test_paths_are_relative_to_the_file(file: Path) -> None:
    file.write_text("data_dir = 'data'\ntokens_file = '/run/hashes'\n")
    found = read(file, {})
    assert (found.data_dir, found.tokens_file) == (file.parent / "data", Path("/run/hashes"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown key 'prot'; did you mean 'port'"),
        ("BNRECAL_DATA_DIR = 'x'", "unknown key 'BNRECAL_DATA_DIR'; did you mean 'data_dir'"),
        ("[server]\nport = 1", "unknown key 'server'"),
        ("port = 'ninety'", "^port: "),
        ("port = 99999", "^port: .* less than or equal to 65535"),
        ("log_level = 'loud'", "^log_level: "),
        ("port = ", "is not valid TOML"),
    ],
)
def test_invalid_settings_are_rejected(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(StartError, match=message):
        read(file, {})


def test_unreadable_file_is_rejected(file: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: No such file"):
        read(file, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="is not valid TOML"):
        read(file, {})


def test_errors_contain_no_values(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_PORT", SECRET)
    file.write_text(f"tokens = ['{SECRET}']\n")
    with pytest.raises(StartError, match=r"port: .*; tokens: |tokens: .*; port: ") as caught:
        read(file, {})
    assert SECRET not in caught.value.message


def test_exit_status_of_invalid_settings(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("prot = 1")
    assert main(["--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bnrecal does not start: the settings file")


def test_unknown_variables_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BNRECAL_PORT", "BNRECAL_CONFIG", "BNRECAL_TOKEN", "bnrecal_host", "PORT"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == []
    monkeypatch.setenv("BNRECAL_PROT", "1")
    assert unknown_variables() == ["BNRECAL_PROT"]


def test_documented_example(file: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    file.write_text(block)
    found = read(file, {})
    assert found.data_dir == file.parent / "data"
    assert found.ended_retention_seconds == 7 * 86400


def test_every_setting_is_documented() -> None:
    for name in Settings.model_fields:
        assert f"| `BNRECAL_{name.upper()}` | `{name}` |" in PAGE


def test_only_a_postgres_url_is_a_ledger() -> None:
    with pytest.raises(StartError, match="ledger") as raised:
        read(None, {"ledger": "mysql://u:secret@host/db"})
    assert "secret" not in str(raised.value)
    assert read(None, {"ledger": "postgresql://host/db"}).ledger == "postgresql://host/db"
