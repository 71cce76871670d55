"""Fixtures that several test files share, and the option that rewrites golden files."""

from pathlib import Path

import pytest

from mlc.workspace import Workspace
from tests.quicker import spare_time

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew; review the diff")


def pytest_collection_finish():
    spare_time()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Give every test an empty cache of exports, and leave the user's alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MLC_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def golden(request):
    """Compare a text with a file in tests/golden/, or write the file under --update-golden."""

    def check(name, text):
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.exists(), f"{name} is missing: run pytest with --update-golden and review it"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as made:
        yield made


def measure_quickly(patch):
    """Time a few runs in one process: enough for every figure to exist, for tests that are not about speed."""
    patch.setattr("mlc.measuring.latency.PROCESSES", 1)
    patch.setattr("mlc.measuring.latency.ROUNDS", (2, 2, 2))
    patch.setattr("mlc.measuring.latency.LOADS", 1)
    patch.setattr("mlc.measuring.latency.ALONE", 0.02)
    patch.setattr("mlc.measuring.latency.BLOCK", (0.001, 0.002))
    patch.setattr("mlc.measuring.peak.measure_peak", lambda _target: 50e9)


@pytest.fixture
def quick(monkeypatch):
    measure_quickly(monkeypatch)
