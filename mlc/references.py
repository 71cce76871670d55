"""Functions named on the command line: ``file.py:function`` and ``package.module:function``."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mlc.errors import MlcError, foreign, kind_of
from mlc.grammar.places import is_file
from mlc.installed import is_installed

Function = Callable[..., Any]

OURS = ("mlc", "passes")
"""Names of our own that a folder of the user may hold too: his files see his, we see ours."""

PRIVATE = re.compile(r"^_mlc_user_\d+_")
"""How the names of modules begin that were made for a user's files."""

_numbers = itertools.count()
_forgotten: set[Path] = set()
"""Files that were imported and are no longer among the loaded modules."""


def load_function(reference: str, error: type[MlcError]) -> Function:
    """Return the function that a reference names; raises ``error`` where something of it is missing.

    The file is run as a module of a private name. Its folder (for a package: the working directory) is on the path
    while the file is imported and while a plain function of it is called, so its siblings can be imported, no longer.
    What it prints meanwhile goes to stderr: stdout is for results.
    """
    place, name = split(reference, error)
    folder = Path(place).absolute().parent if is_file(place) else Path.cwd()
    module = _file_module(Path(place), error) if is_file(place) else _package_module(place, folder, error)
    function = _attribute(module, name, place, error)
    return _called_beside(folder, function) if inspect.isfunction(function) else function


def split(reference: str, error: type[MlcError]) -> tuple[str, str]:
    """Return the file or module, and the name of the function."""
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise error(f"{reference!r} names no function", "write file.py:function or package.module:function")
    return place, name


def function_hint(place: str) -> str:
    """Return what to add to a Python file that stands without a function, with those that it defines; it is not run."""
    path = Path(place)
    if not path.is_file():
        files = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        return f"there is no such file: {near(path.name, files)}" if files else "there is no such file: check the path"
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return f"add the function: {place}:NAME"
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    if len(names) == 1:
        return f"add the function: {place}:{names[0]}"
    return f"add the function: {place}:NAME; {near('', names)}"


def code_file(reference: str, error: type[MlcError]) -> Path | None:
    """Return the source file behind a reference, or None where the module has none; nothing of the file is run."""
    place, _ = split(reference, error)
    if is_file(place):
        return Path(place)
    module = sys.modules.get(place)
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _attribute(module: ModuleType, name: str, place: str, error: type[MlcError]) -> Function:
    there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not hasattr(module, name):
        own = [key for key in there if getattr(getattr(module, key), "__module__", None) == module.__name__]
        raise error(f"{place} has no function {name!r}", near(name, own or there))
    function = getattr(module, name)
    if not callable(function):
        raise error(f"{name} in {place} is {kind_of(function)}, not a function", near(name, there))
    return function  # type: ignore[no-any-return]


def near(name: str, there: list[str]) -> str:
    """Return a hint: the nearest names, else the first few that there are."""
    matches = difflib.get_close_matches(name, there, n=3)
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    return f"there is: {', '.join(sorted(there)[:8])}" if there else "it defines none"


def _file_module(path: Path, error: type[MlcError]) -> ModuleType:
    if not path.is_file():
        files = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise error(f"there is no file {path}", near(path.name, files) if files else "check the path")
    name = f"_mlc_user_{next(_numbers)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise error(f"{path} is not a Python file", "name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with beside(path.absolute().parent), _imported(str(path), error):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package_module(name: str, folder: Path, error: type[MlcError]) -> ModuleType:
    with beside(folder, forget=False), _imported(name, error):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name is not None and f"{name}.".startswith(f"{missing.name}."):
                hint = "install it, or run from the folder that holds it"
                raise error(f"there is no module {missing.name!r} for {name}", hint) from missing
            raise
        except (TypeError, ValueError) as bad:
            if not all(part.isidentifier() for part in name.split(".")):
                raise error(f"{name!r} is not a module's name", "write package.module:function") from bad
            raise


@contextmanager
def _imported(place: str, error: type[MlcError]) -> Iterator[None]:
    """Turn what importing raises into ``error``: a syntax error with its line, an exit too."""
    with foreign(f"importing {place}", error), redirect_stdout(sys.stderr):
        try:
            yield
        except SyntaxError as bad:
            where = f"{Path(bad.filename).name}:{bad.lineno}" if bad.filename else place
            raise error(f"{where} is not valid Python: {bad.msg}", "correct the file") from bad
        except UnicodeDecodeError as bad:
            raise error(f"{place} is not a text file in UTF-8", "name a Python source file") from bad
        except SystemExit as left:
            guard = "guard the script with if __name__ == '__main__'"
            raise error(f"importing {place} ended the program", guard) from left


@contextmanager
def beside(folder: Path, *, forget: bool = True) -> Iterator[None]:
    """Put a folder first on the path; forget what was imported from it afterwards.

    Two folders may each hold a ``utils.py``, and one may hold a ``passes`` of its own: modules of the folder stay alive
    where they are used, but no later import finds them.
    """
    hidden = _hide_ours(folder)
    tops = {name.partition(".")[0] for name in hidden}
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name not in known]:
            top = name.partition(".")[0]
            if top in tops or (forget and top not in known and _inside(sys.modules[name], folder)):
                _forgotten.update(_file_of(sys.modules.pop(name)))
        sys.modules.update(hidden)


def loaded_files() -> set[Path]:
    """Return every Python file that this process has loaded and that belongs to no installed package, nor to mlc."""
    files = {file for module in list(sys.modules.values()) for file in _file_of(module)} | _forgotten
    ours = {Path(__file__).parent, Path(__file__).parents[1] / "passes"}
    return {file for file in files if not (is_installed(file) or ours & set(file.parents))}


def _file_of(module: ModuleType) -> list[Path]:
    file = getattr(module, "__file__", None)
    return [Path(file).absolute()] if isinstance(file, str) else []


def code_parts(code: CodeType) -> Iterator[bytes]:
    """Yield what a function computes: its instructions, names and constants, those of inner functions too."""
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_parts(constant)
        else:
            ordered = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            yield repr(ordered).encode()


def code_names(code: CodeType) -> frozenset[str]:
    """Return all names that a function, and functions inside it, look up outside."""
    inner = [code_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*inner)


def _hide_ours(folder: Path) -> dict[str, ModuleType]:
    """Take our own modules out of the way of the folder's modules of the same name."""
    hidden: dict[str, ModuleType] = {}
    for top in OURS:
        there = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
        module = sys.modules.get(top)
        if not there or module is None or _inside(module, folder) or not written_so(folder, top):
            continue
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            hidden[name] = sys.modules.pop(name)
    return hidden


def written_so(folder: Path, name: str) -> bool:
    """Return whether a folder has a module in these very letters: Python minds capitals where file systems do not."""
    return any(path.stem == name for path in folder.iterdir())


def _inside(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    places = [Path(place).absolute() for place in ([file] if file else getattr(module, "__path__", []))]
    return any(folder in place.parents for place in places) and not any(map(is_installed, places))


def _called_beside(folder: Path, function: Function) -> Function:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with beside(folder), redirect_stdout(sys.stderr):
            return function(*args, **kwargs)

    return call
