"""What is made once on the control node is what is used later, or it is refused."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import (
    SUMS,
    KeptError,
    keep,
    kept,
)


def made(tmp_path: Path) -> Path:
    """Keep a directory of two files."""
    directory = tmp_path / "cache/built"

    def make(target: Path) -> None:
        (target / "a.whl").write_text("a")
        (target / "b.whl").write_text("b")

    assert keep(directory, make) == [directory / "a.whl", directory / "b.whl"] == kept(directory)
    return directory


def test_it_is_made_once(tmp_path: Path) -> None:
    directory = made(tmp_path)
    assert keep(directory, lambda _target: pytest.fail("made again")) == kept(directory)


def test_nothing_is_kept_of_what_failed(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        (target / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        keep(tmp_path / "built", fail)
    assert kept(tmp_path / "built") == []
    assert [path.name for path in tmp_path.iterdir()] == ["built.lock"]


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda built: (built / "a.whl").write_text("x"), "a.whl"),
        (lambda built: (built / "a.whl").write_text(""), "a.whl"),
        (lambda built: (built / "a.whl").unlink(), "a.whl"),
        (lambda built: (built / "c.whl").write_text("c"), "c.whl"),
        (lambda built: (built / SUMS).unlink(), SUMS),
        (lambda built: (built / SUMS).write_text("x"), "cannot be checked"),
        (lambda built: [path.unlink() for path in built.iterdir()], SUMS),
    ],
)
def test_what_changed_is_refused(tmp_path: Path, harm: Callable[[Path], object], named: str) -> None:
    directory = made(tmp_path)
    harm(directory)
    for use in (kept, lambda path: keep(path, lambda _target: pytest.fail("made again"))):
        with pytest.raises(KeptError, match=f"{directory}.*{named}.*delete"):
            use(directory)


def test_wheel_that_an_older_version_took_from_a_device_is_no_kept_one(tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built/pycurl-7.45.7-cp311-cp311-linux_x86_64.whl").write_text("planted")
    with pytest.raises(KeptError, match="delete it"):
        kept(tmp_path / "built")


@pytest.mark.parametrize("fails", [False, True])
def test_others_wait_for_the_one_who_makes_it(tmp_path: Path, fails: bool) -> None:
    directory, begun, may_end = tmp_path / "built", threading.Event(), threading.Event()
    said: list[object] = []

    def make(target: Path) -> None:
        begun.set()
        may_end.wait(30)
        if fails:
            raise KeptError("broken")
        (target / "a").touch()

    def use(how: Callable[[Path], None]) -> None:
        try:
            said.append(keep(directory, how))
        except KeptError as error:
            said.append(str(error))

    first = threading.Thread(target=use, args=[make])
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=use, args=[lambda _target: pytest.fail("made twice")])
    second.start()
    second.join(0.3)
    assert second.is_alive()
    may_end.set()
    first.join(30)
    second.join(30)
    if fails:
        # In whichever order the two come to say it.
        assert set(said) == {"broken", f"{directory} was not made by another host's task: see its failure"}
    else:
        assert said == [[directory / "a"], [directory / "a"]]
