"""A directory is replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlc import directory
from mlc.errors import OutputError, UsageError


def artifact(path, text):
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    (path / "model.onnx").write_text(text)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "rename"])
def swap(request, monkeypatch):
    if request.param == "rename":
        monkeypatch.setattr(directory, "_exchange", lambda first, second: False)
    return request.param


def test_a_new_place_is_filled(tmp_path):
    with directory.replaced(tmp_path / "out", force=False) as staging:
        (staging / "model.onnx").write_text("new")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "model.onnx").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_force_replaces_all_files(tmp_path, swap):
    out = artifact(tmp_path / "out", "old")
    (out / "stale.txt").write_text("stale")
    with directory.replaced(out, force=True) as staging:
        (staging / "manifest.json").write_text("{}")
        (staging / "model.onnx").write_text("new")
    assert names(out) == ["manifest.json", "model.onnx"]
    assert (out / "model.onnx").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_without_force_nothing_is_touched(tmp_path):
    out = artifact(tmp_path / "out", "old")
    with pytest.raises(UsageError, match="exists"), directory.replaced(out, force=False):
        pytest.fail("the block must not run")
    assert (out / "model.onnx").read_text() == "old"


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match="not an artifact"), directory.replaced(tmp_path / "home", force=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "dear"


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="is a file"):
        directory.check_place(tmp_path / "out", force=True)


def test_missing_parents_are_made(tmp_path):
    with directory.replaced(tmp_path / "build" / "demo" / "out", force=False) as staging:
        (staging / "model.onnx").write_text("new")
    assert (tmp_path / "build" / "demo" / "out" / "model.onnx").read_text() == "new"


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "build").write_text("a file")
    with pytest.raises(UsageError, match="build is a file"):
        directory.check_place(tmp_path / "build" / "out", force=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        directory.check_place(tmp_path / "out", force=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system here that refuses everyone")
def test_a_file_system_that_takes_no_folders_is_named(tmp_path):
    with pytest.raises(UsageError, match="/proc cannot be written"):
        directory.check_place(Path("/proc/out"), force=False)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), ValueError("bug"), OSError(errno.ENOSPC, "No space left")])
def test_whatever_is_raised_keeps_the_old_one(tmp_path, raised):
    out = artifact(tmp_path / "out", "old")
    expected = OutputError if isinstance(raised, OSError) else type(raised)
    with pytest.raises(expected), directory.replaced(out, force=True) as staging:
        (staging / "model.onnx").write_text("half")
        raise raised
    assert (out / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_failed_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    out = artifact(tmp_path / "out", "old")
    monkeypatch.setattr(directory, "_exchange", lambda first, second: False)
    rename = Path.rename

    def refuse(self, target):
        if ".mlc-new-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Input/output error"), directory.replaced(out, force=True) as staging:
        (staging / "model.onnx").write_text("new")
    assert (out / "model.onnx").read_text() == "old"


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_an_interrupted_swap_is_recovered(tmp_path):
    pid = dead_pid()
    artifact(tmp_path / f".out.mlc-old-{pid}", "old")
    artifact(tmp_path / f".out.mlc-new-{pid}", "half")
    with pytest.raises(UsageError, match="exists"):
        directory.check_place(tmp_path / "out", force=False)
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_the_folder_of_a_live_run_is_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        theirs = artifact(tmp_path / f".out.mlc-new-{other.pid}", "theirs")
        directory.check_place(tmp_path / "out", force=False)
        assert theirs.exists()
        other.communicate(b"\n")


def test_a_link_keeps_pointing(tmp_path):
    real = artifact(tmp_path / "versions-1", "old")
    link = tmp_path / "current"
    link.symlink_to(real)
    with directory.replaced(link, force=True) as staging:
        (staging / "manifest.json").write_text("{}")
        (staging / "model.onnx").write_text("new")
    assert link.is_symlink()
    assert (real / "model.onnx").read_text() == "new"


def test_an_empty_folder_is_free(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    with directory.replaced(place, force=False) as staging:
        (staging / "model.onnx").write_text("new")
    assert [path.name for path in place.iterdir()] == ["model.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
