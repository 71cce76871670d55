"""Which files are the user's own: what lies in folders of packages is not, wherever those are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlc import installed
from mlc.installed import is_installed, package_of


@pytest.fixture
def target(tmp_path, monkeypatch):
    """A folder as ``pip install --target`` leaves it, with a file of the user's own beside the package."""
    for name in ("carried/inner/deep.py", "single.py", "mine.py", "carried-1.0.dist-info/METADATA"):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n" if name.endswith("METADATA") else "")
    listed = ("carried/inner/deep.py", "single.py", "carried-1.0.dist-info/METADATA", "carried-1.0.dist-info/RECORD")
    record = "".join(f"{name},,\n" for name in (*listed, "../../bin/carried"))
    (tmp_path / "carried-1.0.dist-info/RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed._elsewhere.cache_clear()
    yield tmp_path
    installed._elsewhere.cache_clear()


def test_what_an_installation_recorded_is_a_package_wherever_it_lies(target):
    assert package_of(target / "carried/inner/deep.py") == "carried"
    assert package_of(target / "single.py") == "single"
    assert is_installed(target / "carried/inner/deep.py")


def test_what_lies_beside_it_is_the_users_own(target):
    for name in ("mine.py", "carried_too/model.py"):
        assert package_of(target / name) is None
        assert not is_installed(target / name)


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_folders_of_packages_are_known_by_their_names(folder):
    assert package_of(Path("/a", folder, "torch", "nn", "functional.py")) == "torch"
    assert package_of(Path("/a", folder, "six.py")) == "six"


def test_python_and_its_packages_are_installed_and_a_project_is_not(tmp_path):
    assert is_installed(Path(np.__file__))
    assert is_installed(Path(str(json.__file__)))
    assert package_of(Path(str(json.__file__))) is None
    assert not is_installed(Path(__file__))
    assert not is_installed(tmp_path / "model.py")
