"""A job queue in SQLite that acknowledges nothing before it is durable. Standard library and `sidecar.client` only.

    POST /jobs  {"key": "order-17", "payload": …}   201 once the job would survive the loss of this machine
    GET  /jobs/order-17                             {"state": "pending" | "done"}; done is said only when durable

The rules that make it safe:
1. A submitter gives each job a key, and submits again under the same key until it gets 201.
2. A job's effect outside carries that key (`Idempotency-Key`), because it may be asked for again: a machine can be
   lost after the effect and before "done" is durable. Once "done" has been reported, it never is.
3. Where a checkpoint says *fenced*, another instance works on the queue: this one stops.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import sidecar.client

FOLDER = os.environ.get("QUEUE_DIR", "/data/queue")
OUTSIDE = os.environ.get("QUEUE_OUTSIDE", "http://127.0.0.1:9000/effects")
PORT = int(os.environ.get("QUEUE_PORT", "7861"))
BATCH = 20
"""Jobs that share a checkpoint: the Hub takes about 120 commits an hour, whatever the number of jobs in each."""

_woken = threading.Event()
_durable: set[str] = set()
"""Keys whose "done" may be reported."""


def connect() -> sqlite3.Connection:
    db = sqlite3.connect(os.path.join(FOLDER, "queue.db"), timeout=10, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS jobs (key TEXT PRIMARY KEY, payload TEXT, state TEXT DEFAULT 'pending')")
    return db


def submit(key: str, payload: Any) -> None:
    """Returns once the job is durable; raises sidecar.client.NotDurable."""
    db = connect()
    try:
        db.execute("INSERT OR IGNORE INTO jobs (key, payload) VALUES (?, ?)", (key, json.dumps(payload)))
    finally:
        db.close()
    sidecar.client.checkpoint(timeout=20)
    _woken.set()


def work() -> None:
    """Do what is pending, a batch at a time, for ever."""
    db = connect()
    while True:
        batch = db.execute("SELECT key, payload FROM jobs WHERE state = 'pending' LIMIT ?", (BATCH,)).fetchall()
        done = [key for key, payload in batch if effect(key, payload)]
        db.executemany("UPDATE jobs SET state = 'done' WHERE key = ?", [(key,) for key in done])
        if done and durable():
            _durable.update(done)
        elif not done:
            _woken.wait(1.0)
            _woken.clear()


def work_or_end() -> None:
    """Without its worker the app is of no use: it ends, and says so by its exit code."""
    try:
        work()
    finally:
        os._exit(1)


def effect(key: str, payload: str) -> bool:
    """What the job is about: one request to somebody who knows keys that he has seen."""
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    try:
        urllib.request.urlopen(urllib.request.Request(OUTSIDE, payload.encode(), headers), timeout=10).close()
    except (urllib.error.URLError, OSError) as error:
        print(f"queue: {key} later: {error}", file=sys.stderr)
        time.sleep(0.5)
        return False
    return True


def durable() -> bool:
    """Try until it is; gives up only where another instance has taken over."""
    while True:
        try:
            sidecar.client.checkpoint(timeout=60)
        except sidecar.client.Fenced:
            print("queue: another instance works on the queue now; ending", file=sys.stderr)
            raise
        except sidecar.client.NotDurable as error:
            print(f"queue: not durable yet: {error}", file=sys.stderr)
            time.sleep(error.retry_after or 1.0)
        else:
            return True


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            job = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            key, payload = str(job["key"]), job.get("payload")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.answer(400, {"error": 'send {"key": …, "payload": …}'})
            return
        try:
            submit(key, payload)
        except sidecar.client.NotDurable as error:
            self.answer(503, {"error": f"{error}; submit it again under the same key"}, error.retry_after or 2)
        else:
            self.answer(201, {"key": key})

    def do_GET(self) -> None:
        key = unquote(self.path.removeprefix("/jobs/"))
        db = connect()
        try:
            row = db.execute("SELECT state FROM jobs WHERE key = ?", (key,)).fetchone()
        finally:
            db.close()
        if row is None:
            self.answer(404, {"error": f"no job {key!r}"})
        else:
            done = row[0] == "done" and key in _durable
            self.answer(200, {"key": key, "state": "done" if done else "pending"})

    def answer(self, status: int, body: dict[str, Any], retry_after: float | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", str(max(1, round(retry_after))))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    os.makedirs(FOLDER, exist_ok=True)
    db = connect()
    known = [key for (key,) in db.execute("SELECT key FROM jobs WHERE state = 'done'")]
    db.close()
    # On a disk that survived, what is marked done may not be durable yet.
    if known and durable():
        _durable.update(known)
    threading.Thread(target=work_or_end, daemon=True).start()
    print(f"queue: {len(known)} jobs done so far; listening on {PORT}")
    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
