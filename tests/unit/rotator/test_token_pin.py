"""Where the PIN comes from, and what a PIN file may hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_rotator import files, token
from edge_rotator.errors import RotatorError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "pin"
    path.write_text("s3cr3t")
    return path


def test_credential_of_systemd_wins(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (token.pin_path(str(file)), token.read_pin(str(file))) == (str(file), "s3cr3t")
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert token.pin_path(str(file)) == str(file)
    (directory / "pin").write_text("5678")
    assert (token.pin_path("/nowhere"), token.read_pin("/nowhere")) == (f"{directory}/pin", "5678")


@pytest.mark.parametrize("default", ["", "\t"])
def test_a_default_credential_means_there_is_no_file(
    default: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit sets it, so that a lost PIN file is an error and not a unit that does not start."""
    file.unlink()
    (file.parent / "credentials").mkdir()
    (file.parent / "credentials/pin").write_text(default)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(file.parent / "credentials"))
    with pytest.raises(RotatorError, match=f"{file} must exist") as caught:
        token.pin_path(str(file))
    assert caught.value.kind.name == "pin_unreadable"


def test_token_without_a_pin() -> None:
    assert (token.pin_path(""), token.read_pin("")) == ("", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"s3cr3t\n", "ends with a newline"),
        (b"s3cr3t\r", "ends with a newline"),
        (b"", "1 to 256 printable"),
        (b"x" * 257, "1 to 256 printable"),
        (b"s3\x00cr3t", "1 to 256 printable"),
        ("säße".encode(), "1 to 256 printable"),
    ],
)
def test_what_is_no_pin(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(RotatorError, match=words) as caught:
        token.read_pin(str(file))
    assert caught.value.kind.name == "pin_unreadable"
    assert "s3cr3t" not in str(caught.value).replace(str(file), "")


def test_absent_file(file: Path) -> None:
    file.unlink()
    with pytest.raises(RotatorError, match="No such file"):
        token.pin_path(str(file))


def test_in_memory() -> None:
    path = token.pin_in_memory("s3cr3t")
    assert path.startswith("/proc/self/fd/")
    assert Path(path).read_text() == "s3cr3t"
    assert token.read_pin(path) == "s3cr3t"


def test_root_is_refused_where_it_would_leave_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    files.refuse_root("root")
    files.become("root")
    with pytest.raises(RotatorError, match="started as root"):
        files.refuse_root("edge-rotator")
    with pytest.raises(RotatorError, match="there is no user"):
        files.become("no-such-user")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    files.refuse_root("edge-rotator")
    files.become("no-such-user")
