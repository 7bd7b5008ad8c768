"""Every command but ``run`` and ``agent``: its words for people, its arguments, and which function it is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

REV = "a snapshot's id such as 7.113, a revision of the store or the beginning of one, or head"

Fill = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True, slots=True)
class Command:
    """One command: ``call`` is ``module:function`` in ``sidecar.commands``; ``fill`` adds its arguments."""

    name: str
    usage: str
    what: str
    call: str
    fill: Fill
    more: str = ""


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", metavar="R", type=_given, help=f"{REV}; the default is head")


def _restore(parser: argparse.ArgumentParser) -> None:
    _revision(parser)
    only = "only what lies at or under P: /data/x, or data/x as in the store"
    parser.add_argument("--path", metavar="P", type=_given, help=only)
    apart = "lay it out as DIR/<root name>/… and touch nothing else"
    parser.add_argument("--to", metavar="DIR", type=_given, help=apart)
    parser.add_argument("--force", action="store_true", help="with --to: also into a folder that is not empty")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    _json(parser)


def _newest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", metavar="N", type=_positive, default=20, help="show the newest N (20)")
    _json(parser)


def _ls(parser: argparse.ArgumentParser) -> None:
    parser.usage = "sidecar ls [-h] [--json] [REV] [PATH]"
    parser.add_argument("names", metavar="REV|PATH", nargs="*", help=f"REV: {REV}. PATH: /data/x, or data/x")
    _json(parser)


def _cat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=_given, help="/data/x, or data/x as in the store")
    _revision(parser)


def _diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="REV", help=REV)
    parser.add_argument("new", metavar="REV", nargs="?", help="the same; the default is head")
    _json(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    _revision(parser)
    parser.add_argument(
        "--full",
        action="store_true",
        help="and every earlier snapshot that the store still has, every bundle whole, and what it holds beside them",
    )
    _json(parser)


def _drill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)
    _json(parser)


def _sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would change")
    _json(parser)


def _checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("roots", metavar="ROOT", nargs="*", help="names of the roots that must be good; all by default")
    parser.add_argument("--timeout", metavar="T", default="30s", help="give up after T (30s, at most 2m)")
    _json(parser)


def _status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", nargs="?", help="of a sidecar elsewhere: https://OWNER-NAME.hf.space")
    _json(parser)


def _forget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a root's name, or a path: data/cache or /data/cache")
    _destroys(parser)


def _prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep-last", metavar="N", type=_positive, help="the newest N snapshots stay (10)")
    parser.add_argument(
        "--keep-within", metavar="T", help="those of the last T stay too, such as 30d (30d; on the Hub none but N)"
    )
    _destroys(parser)


def _destroys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("-y", "--yes", action="store_true", help="don't ask")
    _json(parser)


def _fleet(parser: argparse.ArgumentParser) -> None:
    actions = ("ping", "status", "watch", "n8n", "doctor")
    parser.add_argument("action", choices=actions, metavar="|".join(actions), help="what to do; see docs/fleet.md")
    parser.add_argument("-f", "--file", metavar="F", default="fleet.yaml", help="the list of Spaces (fleet.yaml)")
    parser.add_argument("--timeout", metavar="T", default="30s", help="for one request (30s)")
    parser.add_argument(
        "--tries", metavar="N", type=_positive, default=3, help="requests to a Space that is silent (3)"
    )
    parser.add_argument("--at-once", metavar="N", type=_positive, default=16, help="Spaces asked at a time (16)")
    _json(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hub", action="store_true", help="keep it in a local Hub instead (needs the source tree)")


GROUPS: dict[str, tuple[Command, ...]] = {
    "Look into the store (no lease, no lock; also beside a running agent)": (
        Command("snapshots", "[--limit N]", "list the snapshots, newest first", "look:snapshots", _newest),
        Command("ls", "[REV] [PATH]", "list what a snapshot holds", "look:ls", _ls),
        Command("cat", "PATH [--revision R]", "write a file of a snapshot to stdout", "look:cat", _cat),
        Command(
            "diff",
            "REV [REV]",
            "what changed between two snapshots",
            "look:diff",
            _diff,
            "With one REV: from it to the head. What differs on this disk is told by `sidecar restore --dry-run`.",
        ),
        Command(
            "recoveries",
            "[--limit N]",
            "what each start came to, newest first",
            "recoveries:recoveries",
            _newest,
            "From the records in the store (the last 100 starts), and those in this machine's state dir that it lacks.",
        ),
        Command(
            "verify",
            "[--revision R] [--full]",
            "read a snapshot back and compare all checksums",
            "verify:verify",
            _verify,
            "A restore drill that touches no root. Exits with 1 where something is damaged: names it on stdout, and on"
            " stderr the newest snapshot that verifies. What it reads lies in the state dir for a moment, a part at a"
            " time.",
        ),
    ),
    "Bring it back": (
        Command(
            "drill",
            "[--json]",
            "restore the head into a temporary folder and compare all of it",
            "rehearse:drill",
            _drill,
            "At low priority; touches no root, takes no lease. The sqlite and json checks of SIDECAR_VERIFY are made on"
            " the copy. The result is kept in the state dir, for `sidecar doctor`. SIDECAR_DRILL=24h lets the agent do"
            " it. Exits with 1 where something is not as it was committed, with 75 where there is no room for a copy.",
        ),
        Command(
            "restore",
            "[--path P] [--to DIR]",
            "bring a snapshot back, whole or in part",
            "bring:restore",
            _restore,
            "Into the roots it needs main and the agent stopped (else it exits with 75); files here that differ go to "
            "conflicts/ in the state dir, what the snapshot doesn't name stays. With --to it works at any time. "
            "Without --path and --revision it does what a start does: on a new disk a newer image's defaults stay, "
            "and what main deleted of an image goes.",
        ),
    ),
    "Ask the running agent": (
        Command(
            "status",
            "[URL]",
            "how it is, for people; --json as /status serves it",
            "ask:status",
            _status,
            "Without URL it asks the agent of this SIDECAR_STATE_DIR, then SIDECAR_PORT on this machine.",
        ),
        Command(
            "checkpoint",
            "[ROOT...]",
            "make the present state durable; print the revision",
            "ask:checkpoint",
            _checkpoint,
            "Exits with 0 only when all that there is now is durable; 75: try again; 1: not all could be captured.",
        ),
        Command(
            "sync",
            "[--dry-run]",
            "one snapshot now, by the agent if there is one",
            "ask:sync",
            _sync,
            "Without an agent it takes the lease, commits once and gives it back.",
        ),
    ),
    "Let go (asks first; --dry-run only says what would go)": (
        Command(
            "forget",
            "NAME [--yes]",
            "a root that is not declared any more, or what is newly excluded",
            "forget:forget",
            _forget,
            "Snapshots carry both forward until then. Later snapshots are without it, earlier ones still have it; no"
            " file on this disk is touched. By the agent if there is one, else under a lease of its own.",
        ),
        Command(
            "prune",
            "[--keep-last N]",
            "old snapshots; what is kept stays restorable",
            "prune:prune",
            _prune,
            "The newest snapshot and those before a mass deletion stay in any case. On the Hub the history is squashed:"
            " it can't be undone.",
        ),
    ),
    "Watch over many Spaces (from a machine elsewhere)": (
        Command(
            "fleet",
            "ping|status|watch|n8n",
            "all Spaces of fleet.yaml at once; `doctor` asks who was pinged",
            "fleet:fleet",
            _fleet,
            "`ping` calls each /health, which keeps it awake, and exits with 1 unless all pass. `status` is a table."
            " `watch` pings on schedule and tells of changes. `n8n` prints a workflow that n8n imports. `doctor` asks"
            " the Spaces whether they were really pinged lately.",
        ),
    ),
    "Set it up": (
        Command(
            "doctor",
            "[--json]",
            "the operational checklist: what holds, what doesn't, and each fix",
            "doctor:doctor",
            _json,
            "Asks the running agent, and looks at store, token and disk itself; without an agent it goes by store,"
            " settings and state dir. Exits with 1 when an item fails.",
        ),
        Command("config", "", "every setting: its value, source and meaning; secrets masked", "config:config", _json),
        Command("demo", "[--hub]", "the whole story on this machine, with no account", "demo:demo", _demo),
    ),
}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}


def _given(text: str) -> str:
    """Not nothing: from an unset variable in a script, the newest of all would be taken for what was asked for."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; is a variable of your script unset?")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a whole number from 1 on")
    return number
