"""Every command but ``run`` and ``agent``, which ``__main__`` hands on before this is imported.

What there is to call is in ``commands.table``; what a command does is imported when it is called.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import sidecar
from sidecar import log
from sidecar.commands.table import COMMANDS, GROUPS
from sidecar.errors import EX_FAILED, SidecarError

EX_INTERRUPTED = 128 + signal.SIGINT
EX_PIPE = 128 + signal.SIGPIPE

_RUN = (
    ("run -- CMD...", "the whole life around CMD: restore, run, sync, last sync"),
    ("agent", "the agent alone, for images that already have an init"),
)
_HEAD = """\
usage: sidecar COMMAND [OPTION...]

Keeps the files of a container that has no disk of its own: restores them before the app starts, syncs them
while it runs, and saves the rest when it stops.
"""
_TAIL = """\
Settings are environment variables: SIDECAR_PATHS says what is kept, SIDECAR_STORE where. `sidecar config` shows all.

Examples:
  SIDECAR_PATHS=/data SIDECAR_STORE=hf://datasets/me/app-state sidecar run -- python app.py
  sidecar ls head /data/uploads
  sidecar restore --revision 7.113 --path /data/app.db --to /tmp/old
  sidecar checkpoint && echo 'all of it is durable'

Exit codes: 0 done, 1 failed, 2 usage, 69 the store refuses, 75 try again later, 78 a setting is wrong;
`run`: the command's own (128+n after signal n, 127 not found, 126 not executable).

`sidecar COMMAND --help` says more. Data goes to stdout, words to stderr; --json wherever a program may read it.
"""


def overview() -> str:
    """What ``sidecar --help`` prints."""
    groups: dict[str, tuple[tuple[str, str], ...]] = {"Run your app": _RUN}
    groups |= {title: tuple((f"{c.name} {c.usage}".strip(), c.what) for c in of) for title, of in GROUPS.items()}
    lines = [_HEAD]
    for title, rows in groups.items():
        lines += [f"{title}:", *(f"  {left:<30} {what}" for left, what in rows), ""]
    return "\n".join([*lines, _TAIL])


class _Overview(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(overview(), end="")
        parser.exit(0)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("sidecar", usage="sidecar COMMAND [OPTION...]", add_help=False, allow_abbrev=False)
    top.add_argument("-h", "--help", nargs=0, action=_Overview)
    top.add_argument("--version", action="version", version=f"sidecar {sidecar.__version__}")
    known = top.add_subparsers(prog="sidecar", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        text = f"{command.what[0].upper()}{command.what[1:]}. {command.more}".strip()
        sub = known.add_parser(command.name, description=text, allow_abbrev=False)
        command.fill(sub)
    return top


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; exits with 2 and a hint where they can't be read."""
    reader = parser()
    word = next((w for w in argv if not w.startswith("-")), None)
    if not argv or (word is not None and argv[0] == word and word not in COMMANDS):
        import difflib

        near = difflib.get_close_matches(word or "", [*COMMANDS, "run", "agent"], 1)
        hint = f"did you mean `sidecar {near[0]}`?" if near else "`sidecar --help` lists the commands"
        reader.error(f"there is no command {word!r}; {hint}" if word else f"no command was given; {hint}")
    args = reader.parse_args(argv)
    if args.command == "ls" and len(args.names) > 2:
        reader.error("ls takes a snapshot and a path, no more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Words go to stderr, data to stdout; no traceback for a user's mistake."""
    log.setup()
    args = parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _call(args)
        sys.stdout.flush()
        return code
    except SidecarError as error:
        log.error(error.message)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return EX_INTERRUPTED
    except BrokenPipeError:
        _close_stdout()  # whoever read our output has enough of it
        return EX_PIPE
    except OSError as error:
        log.error(f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}")
        _close_stdout()
        return EX_FAILED


def _close_stdout() -> None:
    """The interpreter's own flush at its end must not fail as ours did: it would make another exit code of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(args: argparse.Namespace) -> int:
    module, function = COMMANDS[args.command].call.split(":")
    run: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f"sidecar.commands.{module}"), function)
    return run(args)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
