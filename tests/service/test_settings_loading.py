from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.errors import StartError
from service.server import main, read_settings
from service.settings import Settings
from service.settings_loading import read, unknown_variables

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")
SECRET = "bnr_a-token-and-no-hash"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bnrecal.toml"


def test_nothing_told_leaves_every_default() -> None:
    assert read(None, {"port": None}) == Settings()


def test_the_command_line_beats_the_environment_and_that_beats_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("port = 1\nmax_concurrent_runs = 2\nvalidation_workers = 3\n")
    monkeypatch.setenv("BNRECAL_PORT", "10")
    monkeypatch.setenv("BNRECAL_MAX_CONCURRENT_RUNS", "20")
    found = read_settings(["--config", str(file), "--port", "100"])
    assert (found.port, found.max_concurrent_runs, found.validation_workers) == (100, 20, 3)


def test_a_variable_names_the_file_and_the_command_line_another(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("port = 1\n")
    (tmp_path / "other.toml").write_text("port = 2\n")
    monkeypatch.setenv("BNRECAL_CONFIG", str(file))
    assert read(None, {}).port == 1
    assert read(tmp_path / "other.toml", {}).port == 2


def test_each_setting_can_stand_in_the_file(file: Path) -> None:
    written = {
        name: f"{name} = '{field.default or file}'"
        if not isinstance(field.default, bool | int | float)
        else f"{name} = {str(field.default).lower()}"
        for name, field in Settings.model_fields.items()
        if name != "tokens"
    }
    file.write_text("\n".join(written.values()))
    found = read(file, {})
    expected = Settings(data_dir=file.parent / "bnrecal-data", tokens_file=file)
    assert found == expected


def test_relative_paths_count_from_the_file(file: Path) -> None:
    file.write_text("data_dir = 'data'\ntokens_file = '/run/hashes'\n")
    found = read(file, {})
    assert (found.data_dir, found.tokens_file) == (file.parent / "data", Path("/run/hashes"))


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_what_makes_no_sense_is_refused_by_name(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(StartError, match=told):
        read(file, {})


def test_a_file_that_is_not_there_or_no_text_is_refused(file: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: No such file"):
        read(file, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="is not valid TOML"):
        read(file, {})


def test_a_refusal_holds_no_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_PORT", SECRET)
    file.write_text(f"tokens = ['{SECRET}']\n")
    with pytest.raises(StartError, match=r"port: .*; tokens: |tokens: .*; port: ") as caught:
        read(file, {})
    assert SECRET not in caught.value.message


def test_the_command_ends_with_2_and_one_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("prot = 1")
    assert main(["--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bnrecal does not start: the settings file")


def test_a_variable_that_is_no_setting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BNRECAL_PORT", "BNRECAL_CONFIG", "BNRECAL_TOKEN", "bnrecal_host", "PORT"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == []
    monkeypatch.setenv("BNRECAL_PROT", "1")
    assert unknown_variables() == ["BNRECAL_PROT"]


def test_the_example_of_the_page_is_taken(file: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    file.write_text(block)
    found = read(file, {})
    assert found.data_dir == file.parent / "data"
    assert found.ended_retention_seconds == 7 * 86400


def test_every_setting_is_documented_in_both_forms() -> None:
    for name in Settings.model_fields:
        assert f"| `BNRECAL_{name.upper()}` | `{name}` |" in PAGE
