"""Journey: a Space whose one port is the sidecar's; what its visitors see from a killed life to the next."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.journeys.space import Space, agent_of, free_port, living

# It takes a while to listen, as apps do, and answers with what was restored.
APP = """
import http.server, sys, time
time.sleep(0.7)
class App(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self): open("note", "wb").write(self.rfile.read(int(self.headers["content-length"]))); self.do_GET()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""


def ask(space: Space, path: str, data: bytes | None = None, **headers: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{space.port}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, reply.headers["content-type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def until(space: Space, what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            if what():
                return
        assert time.monotonic() < end, space.said()
        time.sleep(0.02)


def test_from_a_killed_life_to_the_next_as_visitors_see_it(tmp_path: Path) -> None:
    app_port = free_port()
    script = tmp_path / "app.py"
    script.write_text(APP)
    command = (sys.executable, str(script), str(app_port))
    upstream = {"SIDECAR_UPSTREAM": f"http://127.0.0.1:{app_port}", "SIDECAR_HANDOFF_WAIT": "1s"}
    space = Space(tmp_path / "space", f"file://{tmp_path}/store", paths=f"data={tmp_path}/space/disk/data", **upstream)
    space.cwd = space.disk / "data"
    space.cwd.mkdir()
    with living(space):
        space.start(*command)
        until(space, lambda: ask(space, "/readyz")[0] == 200)
        assert ask(space, "/note", b"kept")[2] == "kept"
        assert space.post("/checkpoint")[0] == 401, "through the door nobody is local"
        done = space.sidecar("checkpoint")
        assert done.returncode == 0, done.stderr

        os.kill(agent_of(space), signal.SIGKILL)
        until(space, lambda: ask(space, "/note")[2] == "kept")
        assert space.get()["main"]["state"] == "running"

        space.kill()
        for left in space.disk.glob("data/*"):
            left.unlink()
        space.start(*command)
        until(space, lambda: ask(space, "/livez")[0] == 200)
        status, kind, body = ask(space, "/note")
        assert (status, kind) == (503, "application/json"), body
        assert '"error":"recovering"' in body
        status, kind, body = ask(space, "/note", Accept="text/html")
        assert (status, kind) == (503, "text/html; charset=utf-8")
        assert "This page turns into the app by itself." in body
        seen: list[str] = []

        def turned_into_the_app() -> bool:
            status, _, body = ask(space, "/note")
            seen.append(body.partition('"error":"')[2].partition('"')[0] if status == 503 else f"{status} {body}")
            return status == 200

        until(space, turned_into_the_app)
        assert list(dict.fromkeys(seen)) == ["recovering", "starting", "200 kept"]
        assert ask(space, "/readyz")[0] == 200
        assert space.end() == 143
    assert "front door on port" in space.said()
    assert "Traceback" not in space.said()
