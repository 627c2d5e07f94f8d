"""`dynat-ray COMMAND ...`, which is `python -m dynat_ray.COMMAND ...`."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from dynat_ray import __version__, cli
from dynat_ray.errors import UserError, unknown_name

COMMANDS = {
    "train": "train a robust classifier",
    "prepare": "turn images into a data-set folder",
    "evaluate": "measure robust accuracy",
    "tune": "search settings",
    "compare": "train and evaluate several methods",
    "benchmark": "measure speed",
    "convert": "make a model folder of weights of others",
    "export": "write a model for the hub, ONNX or torch.export",
    "runs": "list runs, searches and comparisons",
}
_SHELLS = ("bash", "zsh")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")

_BASH = """_dynat_ray() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words
    if [ "$COMP_CWORD" = 1 ]; then words="{commands}"; else
        case "$command" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _dynat_ray dynat-ray"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def main() -> None:
    """Runs the command that the first argument names, and exits as it does."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"dynat-ray {__version__}")
        sys.exit(0)
    if not arguments or arguments[0] in ("--help", "-h"):
        print(_usage())
        sys.exit(0)
    name = arguments[0]
    if name == "completion":
        cli.run(lambda argv: _completion(argv[1:]))
    if name not in COMMANDS:
        cli.run(lambda _: _refuse(name))
    module = import_module(f"dynat_ray.{name}")
    # So that a run's environment.json has the command in its one form.
    sys.argv = [str(module.__file__), *arguments[1:]]
    cli.run(module.main)


def _refuse(name: str) -> str:
    raise unknown_name("command", name, COMMANDS)


def _usage() -> str:
    rows = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    more = "  completion print what makes a shell complete: bash or zsh"
    return "\n".join(
        [
            "usage: dynat-ray COMMAND ...   (dynat-ray COMMAND --help says more)",
            *("", "commands:", *rows, more, "", "  --version  print the version"),
        ]
    )


def _completion(argv: Sequence[str]) -> str:
    """Returns a shell's script that completes commands and their options."""
    if len(argv) != 1 or argv[0] not in _SHELLS:
        raise UserError(f"dynat-ray completion takes one of {', '.join(_SHELLS)}")
    cases = [f'        {name}) words="{" ".join(_options(name))}" ;;' for name in COMMANDS]
    names = " ".join([*COMMANDS, "completion", "--version", "--help"])
    script = _BASH.format(commands=names, cases="\n".join(cases))
    return (_ZSH if argv[0] == "zsh" else "") + script


def _options(name: str) -> list[str]:
    command: Any = import_module(f"dynat_ray.{name}").main
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        command(["--help"])
    return sorted(set(_OPTION.findall(shown.getvalue())))


if __name__ == "__main__":
    main()
