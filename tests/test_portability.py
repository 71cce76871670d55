"""What Windows and macOS lack is not used: the source is read for it. What they do is simulated elsewhere."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("mlc", "passes") for path in (ROOT / room).rglob("*.py"))

MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NAMES = {
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE",
    "SIGSTOP", "SIGUSR1", "SIGUSR2", "alarm", "chmod", "chown", "copy_file_range", "fchmod", "fork", "getegid",
    "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg", "link", "mkfifo", "nice", "posix_fadvise",
    "pread", "pwrite", "sched_getaffinity", "sched_setaffinity", "sendfile", "setitimer", "setsid", "statvfs",
    "symlink", "sync", "uname",
}  # fmt: skip
"""Of os and signal: what one of the systems lacks, takes no notice of, or allows to few."""

METHODS = {"chmod", "hardlink_to", "symlink_to"}
GUARDS = ("sys.platform", "os.name", "hasattr(")
PLACES = ("/dev/", "/etc/", "/proc/", "/sys/", "/tmp", "/usr/", "/var/")  # noqa: S108


@cache
def tree(path):
    return ast.parse(path.read_bytes())


def calls(path):
    """Yield every call in a file, the name of what is called, and its keywords."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield node, name, {keyword.arg for keyword in node.keywords}


def opens_text(node, name):
    """Whether a call opens a file as text; ``archive.open(member)`` and ``os.open(path, flags)`` do not."""
    if name != "open":
        return False
    modes = node.args[1:2] if isinstance(node.func, ast.Name) else node.args[:1]
    if not modes:
        return isinstance(node.func, ast.Name) or not node.args
    return isinstance(modes[0], ast.Constant) and isinstance(modes[0].value, str) and "b" not in modes[0].value


def needed(node, name, keywords):
    """Return the keywords that a call must have."""
    if name == "write_text":
        return {"encoding", "newline"}
    if name in {"Popen", "check_output", "run"} and "text" in keywords:
        return {"encoding"}
    return {"encoding"} if name == "read_text" or opens_text(node, name) else set()


def unguarded(nodes, *, guarded=False):
    """Yield every node that all systems run: not what an ``if`` on the system holds, nor what follows where it ends."""
    for node in nodes:
        asks = isinstance(node, ast.If | ast.IfExp) and any(guard in ast.unparse(node.test) for guard in GUARDS)
        if not (guarded or asks):
            yield node
            for _, value in ast.iter_fields(node):
                children = value if isinstance(value, list) else [value]
                yield from unguarded([child for child in children if isinstance(child, ast.AST)])
        guarded |= asks and isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Raise)


def lacking(node):
    """Return what a node takes from a system that others lack."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
        return ", ".join(sorted(MODULES & modules))
    if isinstance(node, ast.Attribute):
        of_system = isinstance(node.value, ast.Name) and node.value.id in {"os", "signal"}
        return node.attr if node.attr in (NAMES if of_system else METHODS) else ""
    return ""


def found(check):
    """Return where in the source a check of one file finds anything."""
    return [
        f"{path.relative_to(ROOT).as_posix()}:{node.lineno}: {what}" for path in SOURCES for node, what in check(path)
    ]


def test_text_has_an_encoding_and_one_kind_of_line_ends():
    assert not found(
        lambda path: [
            (node, f"{name}() without {missing}")
            for node, name, keywords in calls(path)
            if (missing := needed(node, name, keywords) - keywords)
        ]
    )


def test_nothing_of_one_system_is_used_unasked():
    assert not found(lambda path: [(node, what) for node in unguarded([tree(path)]) if (what := lacking(node))])


def test_only_the_machine_looks_into_folders_of_linux():
    assert not found(
        lambda path: [
            (node, node.value)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PLACES)
            if path != ROOT / "mlc" / "machine.py"
        ]
    )


def test_only_one_file_renames():
    """Others replace a file, since Windows renames nothing to a name that is taken."""
    assert not found(
        lambda path: [
            (node, name)
            for node, name, _ in calls(path)
            if isinstance(node.func, ast.Attribute) and name == "rename" and path != ROOT / "mlc" / "directory.py"
        ]
    )


@pytest.mark.parametrize(
    ("code", "missing", "taken"),
    [
        ("open('a')\np.open()\np.open('w')\np.read_text()", ["open", "open", "open", "read_text"], []),
        ("open('a', 'rb')\np.open('rb+')\narchive.open(member)\nos.open(p, 0)", [], []),
        ("import resource\nos.killpg(1, 2)\np.chmod(3)", [], ["resource", "killpg", "chmod"]),
        ("def f():\n if sys.platform == 'x':\n  return\n import resource", [], []),
        ("def f():\n if sys.platform == 'x':\n  pass\n import resource", [], ["resource"]),
    ],
)
def test_the_rules_see_what_they_are_for(tmp_path, code, missing, taken):
    file = tmp_path / "file.py"
    file.write_text(code, encoding="utf-8")
    assert [name for node, name, keywords in calls(file) if needed(node, name, keywords)] == missing
    assert [what for node in unguarded([tree(file)]) if (what := lacking(node))] == taken


def test_files_of_the_repository_keep_their_bytes():
    marks = [line.split() for line in (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()]
    binary = {mark[0].removeprefix("*") for mark in marks if "binary" in mark}
    assert ["*", "text=auto", "eol=lf"] in marks
    for folder in ("sample_models", "tests/golden", "mlc/report"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.is_file() and path.suffix != ".pyc":
                content = path.read_bytes()
                assert (path.suffix in binary) == (b"\0" in content), path
                assert path.suffix in binary or b"\r\n" not in content, path
