"""`/status` for people: one document, nothing loaded from anywhere, whole without its script.

The script asks for the page again and takes over what changed, so that there is one place that escapes and one that
words things: here. See docs/status.md.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sidecar.measures import Sample
from sidecar.web.pages import say
from sidecar.web.pages.markup import Html, join, tag
from sidecar.web.pages.plot import plots
from sidecar.web.pages.timeline import recovery

_HERE = Path(__file__).parent
STYLE = (_HERE / "status.css").read_text(encoding="utf-8")
SCRIPT = (_HERE / "status.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


CSP = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self' https://huggingface.co https://*.hf.space"
)
"""The Hub shows a Space in a frame; nobody else needs to."""

_BUSY = {"starting", "claiming", "restoring", "verifying", "resuming", "ready", "waiting", "stopping"}
_MARKS = {
    "pass": ("pass", "Good"),
    "warn": ("warn", "Look at this"),
    "fail": ("fail", "To do"),
    "unknown": ("", "Not known yet"),
}
_LEASES = {
    "none": "not claimed yet",
    "held": "held by this instance",
    "unleased": "not held: nothing is written to the store",
    "fenced": "another instance has it",
    "released": "given back",
}


def page(
    body: dict[str, Any], samples: Sequence[Sample] = (), *, now: float | None = None, owner: bool | None = None
) -> str:
    """The document for ``body``, which is what the JSON shows to the same reader.

    ``samples`` are for the plot, oldest first; ``now`` is in seconds since the epoch. ``owner``: whether the reader
    has shown the API token; None where there is none to show.
    """
    now = time.time() if now is None else now
    head, why = say.verdict(body)
    every = 2 if body["phase"] in _BUSY else 10
    title = f"{head} - {body['space']}"
    return "<!doctype html>\n" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
            tag("meta", name="robots", content="noindex"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("noscript", tag("meta", http_equiv="refresh", content=max(every, 5))),
            tag("link", rel="icon", href="data:,"),
            tag("title", title),
            tag("style", Html(STYLE)),
        ),
        tag(
            "body",
            tag("a", "Skip to the content", href="#content", class_="skip"),
            tag("header", tag("h1", "Sidecar of ", body["space"])),
            tag("main", tag("div", _content(body, samples, now, head, why), id="content"), _owner(owner)),
            _footer(body),
            tag("script", Html(SCRIPT)),
        ),
        lang="en",
        data_every=every,
        data_names="yes" if owner else "no",
    )


def _content(body: dict[str, Any], samples: Sequence[Sample], now: float, head: str, why: str) -> Html:
    sync, commits = body["sync"], body["commits"]
    this = Sample(now, sync["lag_s"], commits["hour"], commits["paced"])
    return join(
        [
            tag("div", tag("strong", f"{head}."), why, id="verdict", class_=f"verdict {body['health']}"),
            _progress(body),
            _notes(body["notes"]),
            _section("now", "Now", tag("dl", [_tile(*row) for row in _now(body, now)], class_="tiles")),
            _section("trend", "The last hours", plots([*samples, this], now, commits["per_hour"])),
            _section("roots", "Roots", _roots(body["roots"])),
            _section("snapshots", "Snapshots", _snapshots(body, now)),
            _section("recovery", "Recovery of this start", recovery(body["recovery"], now)),
            _checks(body["checks"]),
            _section("checklist", "Checklist", _checklist(body["checklist"])),
            _files(sync),
        ]
    )


def _section(name: str, title: str, *content: Any) -> Html:
    return tag("section", tag("h2", title, id=f"{name}-title"), content, id=name, aria_labelledby=f"{name}-title")


def _tile(name: str, value: Any, more: Any = None) -> Html:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None))


def _table(caption: str, heads: Iterable[tuple[str, bool]], rows: Iterable[Html]) -> Html:
    """A table that scrolls by itself, also by keyboard; ``heads`` say of each column whether it holds numbers."""
    head = tag("tr", [tag("th", name, scope="col", class_="n" if number else None) for name, number in heads])
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", list(rows)))
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _progress(body: dict[str, Any]) -> Html | None:
    restore = body["restore"]
    if body["phase"] not in _BUSY or not restore["files_total"]:
        return None
    total, done = max(1, restore["bytes_total"]), restore["bytes_done"]
    words = (
        f"{restore['files_done']:,} of {say.plural(restore['files_total'], 'file')}, "
        f"{say.size(done)} of {say.size(restore['bytes_total'])}"
    )
    bar = tag("progress", max=total, value=min(done, total), aria_label="Restored so far")
    return _section("progress", "Restoring", bar, tag("p", words))


def _notes(notes: dict[str, str]) -> Html | None:
    lines = [tag("li", sentence, " ", tag("small", code)) for code, sentence in notes.items()]
    return _section("notes", "Needs attention", tag("ul", lines)) if lines else None


def _now(body: dict[str, Any], now: float) -> list[tuple[str, Any, Any]]:
    main, sync, lease, seen = body["main"], body["sync"], body["lease"], body["keepalive"]
    commits = body["commits"]
    pending = "nothing" if not sync["pending"] else say.plural(sync["pending"], "change")
    late = f"the oldest for {say.seconds(sync['lag_s'])}" if sync["pending"] else None
    if late and sync["waits_s"]:
        late += f"; the pace of commits lets them go in {say.seconds(sync['waits_s'])}"
    took = f"{say.seconds(sync['last_lag_s'])} after the change" if sync["last_lag_s"] is not None else ""
    bound = "" if commits["per_hour"] is None else f" of {commits['per_hour']:,}"
    total = f"; {commits['total']:,} in all" if commits["total"] is not None else ""
    kept = f"; {say.size(commits['stored_bytes'])} stored" if commits["stored_bytes"] is not None else ""
    ended = f"exit code {main['exit']}" if main["exit"] is not None else f"pid {main['pid']}" if main["pid"] else None
    durable = say.moment(sync["last_durable"], now) if sync["last_durable"] else "none by this instance yet"
    snapshot = f"snapshot {sync['snapshot']}" if sync["snapshot"] else "no snapshot yet"
    ping = say.moment(seen["last"], now) if seen["last"] else "none seen"
    expected = f"one is expected every {say.seconds(seen['every_s'])}" if seen["every_s"] else ""
    rows: list[tuple[str, Any, Any]] = [
        ("Phase", body["phase"], f"the agent is up for {say.seconds(body['uptime_s'])}"),
        ("Main program", main["state"], ended),
        ("Last durable sync", durable, ", ".join(each for each in (snapshot, took) if each)),
        ("Waiting to be saved", pending, late),
        ("Commits in the last hour", f"{commits['hour']:,}", f"automatic: {commits['paced']:,}{bound}{total}{kept}"),
        ("Lease", _LEASES.get(lease["state"], lease["state"]), _holder(lease)),
        ("Pings from outside", ping, "; ".join(filter(None, [seen["state"], expected, seen["agent"]]))),
        ("Store", body["store"], None if body["persistent"] else "gone with this machine"),
        ("Watching", sync["watcher"], _troubled(sync)),
    ]
    if sync["error"]:
        rows.append(("Last error", sync["error"], join(["since ", say.moment(sync["error_since"], now)])))
    return rows


def _holder(lease: dict[str, Any]) -> str:
    epoch = "" if lease["epoch"] is None else f"epoch {lease['epoch']}"
    holder = "" if lease["holder"] is None else f"holder {lease['holder']}"
    return ", ".join(filter(None, [epoch, holder]))


def _troubled(sync: dict[str, Any]) -> str:
    kinds = ("unsettled", "stale", "unreadable", "paced")
    return ", ".join(f"{sync[kind]:,} {kind}" for kind in kinds if sync[kind])


def _roots(roots: list[dict[str, Any]]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", root["name"], scope="row"),
            say.cells(root["state"], root["files"]),
            _size(root["bytes"]),
            say.cells(root["excluded"], root["skipped"]),
        )
        for root in roots
    ]
    heads = [("Name", False), ("State", False), ("Files", True), ("Size", True), ("Excluded", True), ("Skipped", True)]
    return _table("What SIDECAR_PATHS declares", heads, rows) if rows else tag("p", "None is declared.")


def _snapshots(body: dict[str, Any], now: float) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", each["snapshot"], scope="row"),
            say.cells(say.moment(each["at"], now), each["files"]),
            _size(each["bytes"]),
            say.cells(each["changed"], each["branch"] or "main line"),
        )
        for each in body["snapshots"]
    ]
    if not rows:
        return tag("p", "None is known to this instance yet.")
    heads = [("Snapshot", False), ("When", False), ("Files", True), ("Size", True), ("Changed", True), ("Where", False)]
    caption = f"The newest {len(rows)} that this instance made or found; `sidecar snapshots` lists all"
    return _table(caption, heads, rows)


def _size(count: Any) -> Html:
    return tag("td", say.size(count), class_="n")


def _checks(rows: list[dict[str, Any]]) -> Html | None:
    """What SIDECAR_VERIFY came to last; who may not see names sees of each only its kind and its result."""
    if not rows:
        return None
    words = {"pass": "Passed", "warn": "Warning", "fail": "Failed"}
    lines = [
        tag(
            "li",
            tag("b", words.get(row["result"], "Not made yet")),
            " · ",
            say.value(row.get("check", row["kind"])),
            " ",
            tag("small", say.value(row.get("reason", ""))),
            class_=row["result"] if row["result"] in words else None,
        )
        for row in rows
    ]
    return _section("checks", "Checks", tag("ul", lines, class_="checks"))


def _checklist(lines: list[dict[str, Any]]) -> Html:
    """Lines of ``{id, state, text, fix}``; one whose state nobody knows is shown as it is."""
    if not lines:
        return tag("p", "Nothing was checked yet. `sidecar doctor` checks it now.")
    return tag("ul", [_check(line) for line in lines], class_="checks")


def _check(line: dict[str, Any]) -> Html:
    css, mark = _MARKS.get(line["state"], ("", say.value(line["state"])))
    fix = tag("p", tag("b", "What to do: "), line["fix"]) if line.get("fix") else None
    text, name = say.value(line["text"]), tag("small", say.value(line["id"]))
    return tag("li", tag("b", mark), " · ", text, " ", name, fix, class_=css or None)


def _files(sync: dict[str, Any]) -> Html | None:
    """Paths that are not in the snapshot as they are on disk: only where the reader may see names."""
    files = sync.get("files") or []
    if not files:
        return None
    rows = [
        tag(
            "tr",
            tag("th", say.value(each.get("path", say.value(each))), scope="row"),
            say.cells(say.value(each.get("state"))),
        )
        for each in files
    ]
    caption = "What the newest snapshot does not hold as it is on disk"
    return _section("files", "Files in trouble", _table(caption, [("Path", False), ("State", False)], rows))


def _owner(owner: bool | None) -> Html | None:
    """The form needs the script: a browser sends a bearer token no other way."""
    if owner is None:
        return None
    field = tag("input", id="token", type="password", autocomplete="off", required=True, spellcheck="false")
    label = tag("label", "API token (SIDECAR_API_TOKEN)", for_="token")
    form = tag("form", tag("div", label, field), tag("button", "Show file names"), id="owner", hidden=True)
    words = "Names of files are shown to who has the API token. It is kept in this page only, until it is closed."
    return _section("names", "File names", tag("p", words), form)


def _footer(body: dict[str, Any]) -> Html:
    words = f"sidecar {body['version']} · instance {body['instance']} · up {say.seconds(body['uptime_s'])}"
    return tag(
        "footer",
        tag("p", "", id="live", role="status"),
        tag("p", tag("small", words)),
        tag("p", tag("small", "The same as JSON: ", tag("code", "curl …/status"), "; for Prometheus: /metrics.")),
    )
