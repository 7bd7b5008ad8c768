"""``docs/settings.md``, generated from the table of settings."""

from __future__ import annotations

import re

from sidecar.settings_table import SETTINGS

_HEAD = """\
# Settings

Generated from `sidecar/settings_table.py` by `python -m sidecar.settings`; a test compares the two.

Environment variables alone are enough. An empty value is unset. A value that can't be read is an error at
start that names the variable, what it held (never a secret's value) and what is accepted; all errors are
reported at once, and the exit code is 78. An unknown `SIDECAR_…` variable is an error of `run`, `agent`,
`config` and `doctor` (`SIDECAR_RECOVERY_*` is reserved for hooks). `sidecar config` prints every setting, its
value with secrets masked, where it came from and what it means.

Durations are numbers with the units `d`, `h`, `m`, `s`, `ms`, largest first: `2s`, `1h30m`, `0.2s`; zero is
`0`. Sizes are a number with `B`, `kB`, `MB`, `GB`, `TB` (powers of 1000) or `KiB`, `MiB`, `GiB`, `TiB` (of
1024).
"""

_TAIL = """\
## How `SIDECAR_PATHS` is read

| entry | root's name | path |
| --- | --- | --- |
| `/data` | `data` | `/data`; its file `x.db` lands as `data/x.db` |
| `~/.n8n` | `home/user/.n8n` | `/home/user/.n8n` where that is the home directory |
| `notes=/srv/app/notes.json` | `notes` | a single file |
| `web=~/.config/chromium?layout=bundle` | `web` | always bundled (`mirror`: never) |

- A name is what stands before the first `=` if that holds no `/` and no `?`. It doesn't start with `.`, isn't
  `README.md`, and no name is another's beginning (`a` and `a/b`).
- A root needn't exist. A relative path, a `..`, `/` itself, two roots of which one lies in the other (also
  through a symlink), and the state dir or a folder in it are errors. A folder that contains the state dir is
  fine: the state dir is left out.
- A root that is a symlink is accepted with a warning: what is kept is its target.
- `SIDECAR_STORE=file://…` must name a folder outside of every root (one in the state dir is fine).
"""


def markdown() -> str:
    """The whole page; a test compares ``docs/settings.md`` with it."""
    lines = [_HEAD]
    for group in dict.fromkeys(setting.group for setting in SETTINGS):
        lines += [
            f"## {group}",
            "",
            "| variable | meaning | accepted | default |",
            "| --- | --- | --- | --- |",
        ]
        for s in SETTINGS:
            if s.group == group:
                cells = (f"`{s.name}`", *map(_cell, (s.meaning, s.accepted, s.default)))
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, _TAIL])


def _cell(text: str) -> str:
    # What Markdown would take for markup is shown as code; a '|' ends a cell even in there.
    marked = r"(?<!\S)(\(?)([./+]\S*?|\S*(?:[_*[$~#]|://|[a-z][A-Z]|/(?=\s))\S*?)(?=[,;:)]*(?:\s|$))"
    return re.sub(marked, r"\1`\2`", text).replace("|", r"\|")
