"""Where the PIN comes from, and what a PIN file may hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_rotator import pin, user
from edge_rotator.errors import RotatorError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "pin"
    path.write_text("s3cr3t")
    return path


def test_credential_of_systemd_wins(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (pin.find(str(file)), pin.read(str(file))) == (str(file), "s3cr3t")
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert pin.find(str(file)) == str(file)
    (directory / "pin").write_text("5678")
    assert (pin.find("/nowhere"), pin.read("/nowhere")) == (f"{directory}/pin", "5678")


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
        pin.find(str(file))
    assert caught.value.kind.name == "pin_unreadable"


def test_token_without_a_pin() -> None:
    assert (pin.find(""), pin.read("")) == ("", None)


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
        pin.read(str(file))
    assert caught.value.kind.name == "pin_unreadable"
    assert "s3cr3t" not in str(caught.value).replace(str(file), "")


def test_absent_file(file: Path) -> None:
    file.unlink()
    with pytest.raises(RotatorError, match="No such file"):
        pin.find(str(file))


def test_in_memory() -> None:
    path = pin.in_memory("s3cr3t")
    assert path.startswith("/proc/self/fd/")
    assert Path(path).read_text() == "s3cr3t"
    assert pin.read(path) == "s3cr3t"


def test_root_is_refused_where_it_would_leave_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user.refuse_root("root")
    user.become("root")
    with pytest.raises(RotatorError, match="started as root"):
        user.refuse_root("edge-rotator")
    with pytest.raises(RotatorError, match="there is no user"):
        user.become("no-such-user")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    user.refuse_root("edge-rotator")
    user.become("no-such-user")
