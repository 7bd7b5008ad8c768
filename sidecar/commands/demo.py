"""``demo``: an app's files are written, everything is killed, the disk is lost, and all of it comes back.

The processes, the signals and the store are real, and so are the comparisons: it exits with 1 where one fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import textwrap
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sidecar
from sidecar.commands import words
from sidecar.commands.agent_client import over_http
from sidecar.commands.demo_life import Container, Picture, clean_environment, differences, temporary_home
from sidecar.errors import EX_FAILED, EX_OK, SidecarError

TOKEN = "hf_localdemo00000000000000000000"
"""The local Hub's, made up; nothing outside of this machine knows it."""
HANDOFF = "1s"


class _Steps:
    """Numbered headings, and indented lines below them; all to stdout, at once."""

    def __init__(self) -> None:
        self.number = 0

    def step(self, text: str) -> None:
        self.number += 1
        print("\n" + textwrap.fill(text, 100, initial_indent=f"{self.number}. ", subsequent_indent="   "), flush=True)

    def say(self, line: str) -> None:
        print(f"     {words.name(line)}", flush=True)


def demo(args: Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    began = time.monotonic()
    with temporary_home() as home:
        print(f"sidecar demo: an app, two lives, and a lost disk in between. All of it happens in {home}")
        with _store(home, args.hub) as (store, settings):
            code = _story(home, store, settings)
    if code == EX_OK:
        print(f"\nAll of it came back. {time.monotonic() - began:.1f} s; {home} is removed.")
    return code


def _story(home: Path, store: str, settings: dict[str, str]) -> int:
    out = _Steps()
    box = Container(home, store, out.say, **settings)
    out.step("Two folders are declared, and a small app is started under `sidecar run`.")
    for name in ("SIDECAR_PATHS", "SIDECAR_STORE", "HF_ENDPOINT"):
        for line in box.settings.get(name, "").split("\n"):
            if line:
                out.say(f"{name}={line}")
    _start(box, out)

    out.step("What the app wrote becomes durable: a checkpoint returns when it is.")
    out.say("$ sidecar checkpoint")
    saved = box.checkpoint()
    sync = box.wait("the status shows it", lambda status, _: status["sync"]["last_durable"] is not None)["sync"]
    out.say(f"snapshot {saved['snapshot']}, revision {saved['revision'][:12]}, durable since {sync['last_durable']}")
    before = box.picture()
    out.say(f"noted: {_counts(before)}; sha256 over all of it {before.digest[:16]}")

    out.step("Everything is killed at once with SIGKILL: no goodbye, no last sync.")
    for pid, name in box.kill():
        out.say(f"killed {name} (pid {pid})")
    box.show_log()

    out.step("The disk is lost: both folders and the sidecar's own state are deleted.")
    box.lose_disk()
    out.say(f"left in {home}: {', '.join(sorted(p.name for p in home.iterdir()))}")

    out.step(
        f"The same container starts again. The killed one still holds the lease and can't say that it is gone, so "
        f"it is waited for: SIDECAR_HANDOFF_WAIT={HANDOFF} here, 30s by default."
    )
    _start(box, out, SIDECAR_HANDOFF_WAIT=HANDOFF)

    out.step("Is all of it back?")
    after = box.picture()
    wrong = differences(before, after)
    for line in wrong:
        out.say(f"DIFFERENT  {line}")
    out.say(f"before: {_counts(before)}; sha256 {before.digest[:16]}")
    out.say(f"now:    {_counts(after)}; sha256 {after.digest[:16]}; integrity_check: {after.integrity}")
    if wrong:
        print(f"\nNOT all of it came back: {len(wrong)} differences.")
        return EX_FAILED
    out.say("every name, mode, time, byte and row is the same")

    out.step("What the running agent says of itself.")
    url = f"http://127.0.0.1:{box.port}/status"
    out.say(f"$ curl {url}")
    for line in _shown(over_http(url, 5).body):
        out.say(line)

    out.step("SIGTERM, as a platform ends a container: the app stops, then the last sync.")
    code = box.end()
    out.say(f"exit code {code}, the app's own")
    return _after_the_end(box, out, code)


def _start(box: Container, out: _Steps, **more: str) -> None:
    settings = "".join(f"{name}={value} " for name, value in more.items())
    out.say(f"$ {settings}sidecar run -- python demo_app.py notes data")
    box.start(**more)
    box.wait("the app ran", lambda status, said: status["main"]["state"] == "running" and "app: " in said)


def _after_the_end(box: Container, out: _Steps, code: int) -> int:
    """What the app wrote in its last moment must be in the store."""
    out.say("$ sidecar cat notes/goodbye.txt")
    env = {**clean_environment(), **box.settings}
    argv = [sys.executable, "-P", "-m", "sidecar", "cat", "notes/goodbye.txt"]
    got = subprocess.run(argv, env=env, cwd=box.home, capture_output=True, timeout=30)
    for line in (got.stdout + got.stderr).decode("utf-8", "replace").splitlines():
        out.say(line)
    same = got.returncode == 0 and got.stdout == (box.notes / "goodbye.txt").read_bytes()
    if same and code == 0:
        return EX_OK
    print("\nThe second life did not end as it should: see above.")
    return EX_FAILED


def _counts(picture: Picture) -> str:
    size = sum(entry[3] for entry in picture.entries.values() if entry[0] == "file")
    kinds = f"{picture.count('folder')} folders, {picture.count('link')} link"
    return f"{words.files(picture.count('file'))} ({words.size(size)}), {kinds}, {len(picture.rows)} rows in SQLite"


def _shown(status: dict[str, Any]) -> Iterator[str]:
    """The JSON as it is, a line for each of its parts."""
    parts = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in status.items()]
    yield "{"
    for n, part in enumerate(parts):
        comma = "," if n + 1 < len(parts) else ""
        yield from textwrap.wrap(part + comma, 110, subsequent_indent="      ", break_on_hyphens=False)
    yield "}"


@contextlib.contextmanager
def _store(home: Path, hub: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Where the snapshots go, and the settings that belong to it; the local Hub runs for as long."""
    if not hub:
        yield f"file://{home}/store", {}
        return
    tree = Path(sidecar.__file__).resolve().parents[1]
    if not (tree / "tests/hub/__main__.py").is_file():
        raise SidecarError(
            f"--hub needs the project's source tree, whose tests bring a local Hub; {str(tree)!r} has none. "
            "Clone the project and run `make demo ARGS=--hub`, or run the demo without --hub"
        )
    missing = [name for name in ("blake3", "lz4") if importlib.util.find_spec(name) is None]
    if missing:
        raise SidecarError(f"--hub needs {', '.join(missing)}, which `make setup` installs: run `make demo ARGS=--hub`")
    argv = [sys.executable, "-m", "tests.hub", "--data", str(home / "hub"), "--token", f"{TOKEN}=demo:write"]
    log = home / "hub.log"
    with open(log, "wb") as errors:
        server = subprocess.Popen(
            argv, cwd=tree, env=clean_environment(), stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        if not url.startswith("http://127.0.0.1:"):
            raise SidecarError(f"the local Hub did not start: {log.read_text(errors='replace').strip()[-500:]}")
        print(f"A local Hub answers at {url}; it is not killed with the container, just as the real one would not be.")
        yield "hf://datasets/demo/app-state", {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(home / "hf")}
    finally:
        server.kill()
        server.wait()


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
