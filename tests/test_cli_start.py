"""How the command line starts: without a framework; and how it ends: one line and the right exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from trajworld import __version__
from trajworld.cli import main as module
from trajworld.errors import TrajWorldError, UsageError
from trajworld.versions import pip_command

pytestmark = pytest.mark.once

FRAMEWORKS = {"jax", "tensorflow", "torch", "keras"}
HEAVY = FRAMEWORKS | {"pandas", "matplotlib", "scipy"}


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # -P: the checkout's own trajworld/ must not stand before the installed package.
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("arguments", "banned"),
    [
        ("--help", HEAVY | {"rich"}),
        ("data list", HEAVY),
        ("data collect --help", HEAVY | {"gymnasium", "mujoco", "dm_control"}),
        ("doctor --help", FRAMEWORKS),
        ("train --help", FRAMEWORKS),
        ("evaluate --help", FRAMEWORKS),
        ("checkpoint import --help", FRAMEWORKS),
        ("checkpoint list", FRAMEWORKS),
        ("policy list nowhere", HEAVY),
        ("checkpoint show trajworld-small", FRAMEWORKS),
        ("checkpoint push trajworld-small hf://user/mine", FRAMEWORKS),
    ],
)
def test_no_framework_is_imported(tmp_path: Path, arguments: str, banned: set[str]) -> None:
    code = (
        "import json, sys\n"
        "from trajworld.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print()\nprint(json.dumps(sorted(sys.modules)))"
    )
    done = python(code, *arguments.split(), HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hf"))
    modules = json.loads(done.stdout.splitlines()[-1])
    assert f"trajworld.cli.{'main' if arguments == '--help' else arguments.split()[0]}" in modules
    assert not banned & {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("arguments", ["train DATA -o run", "evaluate trajworld-small DATA", "quickstart"])
def test_an_installation_without_a_backend_says_so_in_one_line(arguments: str) -> None:
    code = (
        "import importlib.util as util, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in ('jax', 'tensorflow', 'torch') else find(name, *rest)\n"
        "from trajworld.cli.main import main\nmain(sys.argv[1:])"
    )
    done = python(code, *arguments.split(), KERAS_BACKEND="jax")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"Error: jax, the backend that computes, is not installed: {pip_command('jax')}"
    ]


@pytest.mark.parametrize(
    ("arguments", "wanted", "message"),
    [
        ("--version", 0, f"trajworld, version {__version__}\n"),
        ("fly", 2, "No such command 'fly'"),
        ("data fly", 2, "No such command 'fly'"),
        ("--fly", 2, "No such option"),
        ("doctor --timeout never", 2, "--timeout"),
        ("study run fly", 2, "No such command 'fly'"),
    ],
)
def test_wrong_calls_exit_with_2(command: Any, arguments: str, wanted: int, message: str) -> None:
    code, out, err = command(*arguments.split())
    assert code == wanted
    assert message in (err if code else out)


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (TrajWorldError("the disk is full"), 1, "Error: the disk is full"),
        (UsageError("no such preset: choose tiny"), 2, "Error: no such preset: choose tiny"),
        (ModuleNotFoundError(name="dm_control"), 1, "pip install 'dm_control"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (IndexError("a fault"), None, "a fault"),
    ],
)
def test_errors_end_in_one_line_but_a_programming_error_in_its_traceback(
    command: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int | None, shown: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(module.cli.commands, "fail", click.Command("fail", callback=fail))
    if code is None:
        with pytest.raises(type(error), match=shown):
            command("fail")
        return
    found, out, err = command("fail")
    assert (found, out, len(err.strip().splitlines())) == (code, "", 1)
    assert shown in err


def commands(group: click.Group) -> Iterator[click.Command]:
    with click.Context(group) as context:
        for name in [name for name, one in group.commands.items() if not one.hidden]:
            _, found, _ = group.resolve_command(context, [name])
            yield from commands(found) if isinstance(found, click.Group) else [found]


def test_every_option_of_every_command_has_help() -> None:
    options = [
        option for one in commands(module.cli) for option in one.params if isinstance(option, click.Option)
    ]
    assert {"--learning-rate", "--noise-scale", "--heads", "--store"} <= {
        option.opts[0] for option in options
    }
    assert [option.opts for option in options if not (option.help or option.hidden)] == []


def test_a_reader_that_goes_away() -> None:
    code = "import sys; from trajworld.cli.main import main; sys.exit(main(['--help']))"
    pipe = ["bash", "-c", f'{sys.executable} -P -c "{code}" | true']
    assert subprocess.run(pipe, capture_output=True, text=True).stderr == ""
