"""Functions named by file or package: found, or refused with what is missing and what is near."""

import sys
from pathlib import Path

import pytest

from mlc.errors import DataError, SourceError, UsageError
from mlc.references import code_file, load_function


def write(folder: Path, *pairs: tuple[str, str], **files: str) -> None:
    """Write Python files by their path without .py."""
    for name, text in (*pairs, *files.items()):
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def clean_modules():
    before = dict(sys.modules)
    path = list(sys.path)
    yield
    assert sys.path == path
    added = [name for name in sys.modules if name not in before and not name.startswith("_mlc_user_")]
    assert [name for name in added if name in {"sibling", "helpers"}] == []


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_function_in_a_file(tmp_path, clean_modules):
    write(tmp_path, model="def make(): return 7")
    assert load_function(f"{tmp_path}/model.py:make", SourceError)() == 7
    assert code_file(f"{tmp_path}/model.py:make", SourceError) == tmp_path / "model.py"


def test_siblings_can_be_imported_also_inside_the_function(tmp_path, clean_modules):
    write(
        tmp_path,
        ("helpers/inner", "VALUE = 2"),
        sibling="VALUE = 1",
        model="from sibling import VALUE\ndef make():\n    from helpers.inner import VALUE as b\n    return VALUE, b",
    )
    assert load_function(f"{tmp_path}/model.py:make", SourceError)() == (1, 2)


def test_two_folders_with_a_sibling_of_one_name(tmp_path, clean_modules):
    for name in ("a", "b"):
        write(tmp_path / name, sibling=f"VALUE = {name!r}", model="from sibling import VALUE\ndef make(): return VALUE")
    functions = [load_function(f"{tmp_path}/{name}/model.py:make", SourceError) for name in ("a", "b")]
    assert [function() for function in functions] == ["a", "b"]


def test_a_package_called_passes_is_the_users_in_his_file_and_ours_afterwards(tmp_path, clean_modules):
    import passes

    write(
        tmp_path,
        ("passes/__init__", "MINE = True"),
        ("passes/own", "VALUE = 3"),
        mlc="MINE = True",
        model="import mlc, passes\nfrom passes.own import VALUE\ndef make(): return passes.MINE, mlc.MINE, VALUE",
    )
    assert load_function(f"{tmp_path}/model.py:make", SourceError)() == (True, True, 3)
    assert sys.modules["passes"] is passes
    assert "passes.own" not in sys.modules
    assert not hasattr(sys.modules["mlc"], "MINE")


def test_a_function_in_a_package_of_the_working_directory(tmp_path, monkeypatch):
    package = tmp_path / "pack_for_references"
    write(package, __init__="", models="def make(): return 5")
    monkeypatch.chdir(tmp_path)
    assert load_function("pack_for_references.models:make", SourceError)() == 5
    code = code_file("pack_for_references.models:make", SourceError)
    assert code is not None
    assert code.samefile(package / "models.py")


def test_attributes_of_a_function_are_kept(tmp_path):
    write(tmp_path, metric="def score(outputs, answers): return 0\nscore.higher_is_better = False")
    function = load_function(f"{tmp_path}/metric.py:score", UsageError)
    assert function.higher_is_better is False  # type: ignore[attr-defined]


def test_a_class_is_returned_as_it_is(tmp_path):
    write(tmp_path, model="class Net:\n    pass")
    assert isinstance(load_function(f"{tmp_path}/model.py:Net", SourceError), type)


@pytest.mark.parametrize(
    ("files", "reference", "message", "hint"),
    [
        ({"model": ""}, "modle.py:make", "there is no file", "did you mean model.py?"),
        ({"model": "def build(): ..."}, "model.py:biuld", "has no function 'biuld'", "did you mean build?"),
        ({"model": ""}, "model.py:make", "has no function 'make'", "it defines none"),
        ({"model": "make = 3"}, "model.py:make", "is an int, not a function", "it defines none"),
        ({"model": "def make(:\n"}, "model.py:make", "model.py:1 is not valid Python", "correct the file"),
        ({"model": "import nowhere_to_be_found"}, "model.py:make", "No module named 'nowhere_to_be_found'", ""),
        ({"model": "x = 1\nx / 0"}, "model.py:make", "ZeroDivisionError at model.py:2", ""),
        ({"model": "import sys\nsys.exit(3)"}, "model.py:make", "ended the program", "__main__"),
        ({"model": "def make(): ..."}, "model.py:", "names no function", "file.py:function"),
        ({"model": "def make(): ..."}, "model.py", "names no function", "file.py:function"),
        ({}, "nowhere_at_all.models:make", "there is no module 'nowhere_at_all'", "install it"),
        ({}, "not-a-name:make", "not-a-name", ""),
    ],
)
@pytest.mark.usefixtures("clean_modules", "in_folder")
def test_what_is_missing_is_said(tmp_path, files, reference, message, hint):
    write(tmp_path, **files)
    for error in (SourceError, DataError):
        with pytest.raises(error) as caught:
            load_function(reference, error)
        assert message in caught.value.message
        assert hint in caught.value.hint
        assert "\n" not in caught.value.message


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "model.py").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SourceError, match=r"model\.py"):
        load_function(f"{tmp_path}/model.py:make", SourceError)
