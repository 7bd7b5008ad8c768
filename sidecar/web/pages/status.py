"""`/status` for people: one document, no script, nothing loaded from anywhere, every value escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark;--line:#8884;--pass:#1a7f37;--warn:#9a6700;--fail:#cf222e}
@media (prefers-color-scheme:dark){:root{--pass:#3fb950;--warn:#d29922;--fail:#f85149}}
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;margin:0}h2{font-size:1rem;margin:2rem 0 .3rem}p{margin:.2rem 0}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;
padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th{font-weight:600;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}progress{width:100%}
.pass{color:var(--pass)}.warn{color:var(--warn)}.fail{color:var(--fail)}small{opacity:.75}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CSP = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self' https://huggingface.co"
)
"""The Hub shows a Space in a frame; nobody else needs to."""

_MARKS = {True: ("pass", "yes"), False: ("fail", "no"), None: ("warn", "not known yet")}
_BUSY = {"starting", "claiming", "restoring", "verifying", "resuming", "ready", "waiting", "stopping"}


def page(status: dict[str, Any]) -> str:
    """The document for ``status``, which is what the JSON shows to the same reader."""
    health = status["health"]
    words = {"pass": "All is well", "warn": "Works, but needs attention", "fail": "Not well"}[health]
    if any(code == "not-persisted" for code in status["notes"]):
        words += " - NOT PERSISTED"
    every = 3 if status["phase"] in _BUSY else 30
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta http-equiv="refresh" content="{every}"><meta name="robots" content="noindex">'
            f"<title>{escape(words)} - sidecar</title><style>{STYLE}</style></head><body>",
            f'<h1 class="{escape(health)}">{escape(words)}</h1><p>{escape(status["detail"])}</p>',
            _progress(status),
            _notes(status["notes"]),
            _table("Now", _now(status)),
            _roots(status["roots"]),
            _checklist(status["checklist"]),
            _table("Recovery record", _flat(status["recovery"] or {})),
            _files(status["sync"].get("files", [])),
            f"<p><small>sidecar {_text(status['version'])} · instance {_text(status['instance'])} · "
            f"up {_text(status['uptime_s'])} s</small></p></body></html>\n",
        ]
    )


def _text(value: Any) -> str:
    """Any value of the status, escaped; ``-`` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}"
    if isinstance(value, str):
        return escape(value)
    return escape(json.dumps(value, default=str))


def _table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<h2>{escape(title)}</h2><table>{body}</table>" if body else ""


def _progress(status: dict[str, Any]) -> str:
    restore = status["restore"]
    if status["phase"] not in _BUSY or not restore["files_total"]:
        return ""
    return (
        f'<progress max="{max(1, restore["bytes_total"])}" value="{restore["bytes_done"]}"></progress>'
        f"<p>{_text(restore['files_done'])} of {_text(restore['files_total'])} files, "
        f"{_text(restore['bytes_done'])} of {_text(restore['bytes_total'])} bytes</p>"
    )


def _notes(notes: dict[str, str]) -> str:
    return _table("Needs attention", notes.items())


def _now(status: dict[str, Any]) -> list[tuple[str, Any]]:
    main, sync, lease, seen = status["main"], status["sync"], status["lease"], status["keepalive"]
    ended = "" if main["exit"] is None else f", exit code {main['exit']}"
    since = "" if seen["last"] is None else f", last {seen['last']} by {seen['agent']}"
    holder = "" if lease["holder"] is None else f", held by {lease['holder']}"
    return [
        ("Phase", status["phase"]),
        ("Main program", f"{main['state']}{ended}"),
        ("Last durable", sync["last_durable"]),
        ("Snapshot", sync["snapshot"]),
        ("Revision", sync["revision"]),
        ("Changes that wait", sync["pending"]),
        ("Lag in seconds", sync["lag_s"]),
        ("Last error", sync["error"]),
        ("Store", status["store"]),
        ("Lease", f"{lease['state']}, epoch {lease['epoch']}{holder}"),
        ("Pings from outside", f"{seen['state']}{since}"),
        ("Commits in the last hour", status["commits"]["hour"]),
        ("Commits in all", status["commits"]["total"]),
    ]


def _roots(roots: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th>{_text(root['name'])}</th><td>{_text(root['state'])}</td>"
        f'<td class="n">{_text(root["files"])}</td><td class="n">{_text(root["bytes"])}</td></tr>'
        for root in roots
    )
    head = '<tr><th>Name</th><th>State</th><th class="n">Files</th><th class="n">Bytes</th></tr>'
    return f"<h2>Roots</h2><table>{head}{rows}</table>" if rows else ""


def _checklist(lines: list[dict[str, Any]]) -> str:
    rows = []
    for line in lines:
        css, mark = _MARKS[line["ok"]]
        fix = f"<br><small>{_text(line['fix'])}</small>" if line["fix"] else ""
        rows.append(
            f'<tr><th>{_text(line["item"])}</th><td class="{css}">{mark}</td><td>{_text(line["detail"])}{fix}</td></tr>'
        )
    return f"<h2>Checklist</h2><table>{''.join(rows)}</table>"


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} ")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _files(files: list[dict[str, Any]]) -> str:
    return _table("Files in trouble", [(str(n), each) for n, each in enumerate(files, 1)])
