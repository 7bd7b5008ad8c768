"""Downloads over connections that break, from a Hub that errs: whole files, or none."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.stores.base import Corrupt, Denied, NotFound, Unavailable
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import BRISK, HASTY, REPO, fails, local_hub, run, store

TEXT = b"line of text\n" * 40_000
LARGE = os.urandom(700_000)


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


@pytest.fixture
def revision(hub: LocalHub) -> str:
    """One regular file and one in LFS: from the Hub itself, and from its storage host."""
    made = run(store(hub).commit(hub.head(REPO), {"r/text": TEXT, "r/large": LARGE}, [], "one"))
    assert {p: e["lfs"] for p, e in hub.entries(REPO).items() if p[:2] == "r/"} == {
        "r/text": False,
        "r/large": True,
    }
    hub.reset()
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def endpoint(path: str) -> str:
    return "cdn" if path == "r/large" else "resolve_cache"


BOTH = pytest.mark.parametrize("path", ["r/text", "r/large"])


@BOTH
@pytest.mark.parametrize("action", ["cut_response", "truncate", "short"])
def test_a_cut_goes_on_where_it_was(hub: LocalHub, into: Path, revision: str, path: str, action: str) -> None:
    whole = {"r/text": TEXT, "r/large": LARGE}[path]
    hub.fault(action, endpoint=endpoint(path), after=300_000, times=3)
    arrived: list[int] = []
    run(store(hub).fetch(revision, [path], into, arrived.append))
    assert files(into) == {path: whole}
    assert sum(arrived) == len(whole)
    sent = sum(r["bytes_out"] for r in hub.requests(endpoint(path)))
    assert sent < 1.6 * len(whole), "began anew instead of going on"


@BOTH
def test_a_server_that_ignores_range_gets_a_new_start(hub: LocalHub, into: Path, revision: str, path: str) -> None:
    hub.fault("cut_response", endpoint=endpoint(path), after=300_000)
    rule = hub.fault("status", endpoint=endpoint(path), status=200, body="not what was asked for")
    run(store(hub).fetch(revision, [path], into))
    assert hub.fired(rule) == 1
    assert files(into) == {path: {"r/text": TEXT, "r/large": LARGE}[path]}


@BOTH
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_time_may_mend(hub: LocalHub, into: Path, revision: str, path: str, status: int) -> None:
    hub.fault("status", endpoint=endpoint(path), status=status)
    hub.fault("status", endpoint="resolve", status=status)
    run(store(hub).fetch(revision, [path], into))
    assert files(into)[path] == {"r/text": TEXT, "r/large": LARGE}[path]


@BOTH
def test_what_it_doesnt_mend(hub: LocalHub, into: Path, revision: str, path: str) -> None:
    for action in ("status", "cut_response", "hang"):
        hub.reset()
        rule = hub.fault(action, endpoint=endpoint(path), status=503, after=0, times=None)
        fails(Unavailable, store(hub, patience=BRISK if action == "hang" else HASTY).fetch(revision, [path], into))
        assert hub.fired(rule) == HASTY.tries
        assert files(into) == {}


@BOTH
def test_a_waiting_time_that_is_too_long_goes_to_the_caller(
    hub: LocalHub, into: Path, revision: str, path: str
) -> None:
    limit = {"RateLimit": '"resolvers";r=0;t=231'}
    hub.fault("status", endpoint="resolve", status=429, headers=limit, times=None)
    begin = time.monotonic()
    assert fails(Unavailable, store(hub).fetch(revision, [path], into)).retry_after == 231
    assert time.monotonic() - begin < 2


@BOTH
def test_one_wrong_byte_is_fetched_again_over_a_fresh_connection(
    hub: LocalHub, into: Path, revision: str, path: str
) -> None:
    hub.fault("corrupt", endpoint=endpoint(path), times=2)
    run(store(hub).fetch(revision, [path], into))
    assert files(into) == {path: {"r/text": TEXT, "r/large": LARGE}[path]}


@BOTH
def test_bytes_that_stay_wrong_are_damage(hub: LocalHub, into: Path, revision: str, path: str) -> None:
    rule = hub.fault("corrupt", endpoint=endpoint(path), times=None)
    fails(Corrupt, store(hub).fetch(revision, [path], into), path, revision)
    assert hub.fired(rule) == 3
    assert files(into) == {}


def test_an_outage_is_no_damage(hub: LocalHub, into: Path, revision: str) -> None:
    hub.fault("corrupt", endpoint="cdn")
    hub.fault("status", endpoint="cdn", status=500, times=None)
    fails(Unavailable, store(hub).fetch(revision, ["r/large"], into))


def test_a_signed_address_that_ran_out_is_asked_for_again(hub: LocalHub, into: Path, revision: str) -> None:
    hub.fault("status", endpoint="cdn", status=403, body="<Error>Request has expired</Error>")
    run(store(hub).fetch(revision, ["r/large"], into))
    assert files(into) == {"r/large": LARGE}
    assert hub.count("resolve") == 2


def test_the_token_stays_at_the_hub(hub: LocalHub, into: Path, revision: str) -> None:
    """The storage host is another origin; the local one answers 400 to a token."""
    run(store(hub).fetch(revision, ["r/large"], into))
    assert [r["status"] for r in hub.requests("cdn")] == [200]


def test_one_request_less_than_the_client_makes(hub: LocalHub, into: Path, revision: str) -> None:
    run(store(hub).fetch(revision, ["r/text", "r/large"], into))
    assert {r["method"] for r in hub.requests()} == {"GET"}
    assert (hub.count("resolve"), hub.count("resolve_cache"), hub.count("cdn")) == (2, 1, 1)


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [(401, Denied, "Settings > Secrets"), (403, Denied, "Settings > Secrets"), (404, NotFound, "SIDECAR_STORE")],
)
def test_a_no(hub: LocalHub, into: Path, revision: str, status: int, kind: type, word: str) -> None:
    rule = hub.fault("status", endpoint="resolve", status=status, times=None, body='{"error":"No"}')
    fails(kind, store(hub).fetch(revision, ["r/text"], into), word)
    assert hub.fired(rule) == 1


def test_what_isnt_there_is_named(hub: LocalHub, into: Path, revision: str) -> None:
    fails(NotFound, store(hub).fetch(revision, ["r/text", "r/no\nne"], into), "r/no\\nne", revision)
    fails(NotFound, store(hub).fetch("0" * 40, ["r/text"], into))
    assert files(into).keys() <= {"r/text"}


def test_many_files_a_few_at_a_time(hub: LocalHub, into: Path) -> None:
    put = {f"r/{n % 3}/{n}": b"%d" % n for n in range(120)}
    made = run(store(hub).commit(hub.head(REPO), put, [], "many"))
    hub.fault("cut_response", endpoint="resolve*", times=5)
    hub.fault("status", endpoint="resolve*", status=503, times=5)
    arrived: list[int] = []
    run(store(hub).fetch(made, put, into, arrived.append))
    assert files(into) == put
    assert sum(arrived) == sum(map(len, put.values()))


def test_the_first_failure_ends_all(hub: LocalHub, into: Path) -> None:
    put = {f"r/{n}": b"%d" % n for n in range(200)}
    made = run(store(hub).commit(hub.head(REPO), put, [], "many"))
    hub.reset()
    hub.fault("status", endpoint="resolve", status=401, times=None, skip=10)
    fails(Denied, store(hub).fetch(made, put, into))
    assert hub.count("resolve") < 40
    assert all(body == put[path] for path, body in files(into).items())


def test_a_trickle_is_progress_and_a_stall_is_not(hub: LocalHub, into: Path, revision: str) -> None:
    patience = replace(HASTY, stall=0.6)
    hub.fault("pass", endpoint="resolve", times=None, delay=0.25)
    paths = ["r/text"] * 24  # one after the other this takes far longer than a stall may
    run(store(hub, patience=patience).fetch(revision, paths, into))
    hub.reset()
    hub.fault("hang", endpoint="resolve", times=None)
    begin = time.monotonic()
    fails(Unavailable, store(hub, patience=patience).fetch(revision, ["r/text"], into))
    assert 0.5 < time.monotonic() - begin < 2


def test_cancelling_ends_a_download(hub: LocalHub, into: Path, revision: str) -> None:
    rule = hub.fault("hang", endpoint="cdn", times=None)
    s = store(hub)

    async def main() -> None:
        begin = time.monotonic()
        task = asyncio.create_task(s.fetch(revision, ["r/large"], into))
        while not hub.fired(rule):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begin < 1
        # What the given up thread still does must not get in the way of the next try.
        hub.clear_faults()
        await s.fetch(revision, ["r/large"], into)

    run(main())
    assert files(into)["r/large"] == LARGE


def test_a_disk_without_room(hub: LocalHub, revision: str) -> None:
    """Writing to /dev/full fails as a full disk does."""

    class Full(type(Path())):  # type: ignore[misc]
        def __truediv__(self, name: str) -> Path:
            return Path("/dev/full") if ".sidecar-part" in name else super().__truediv__(name)

    full = Full("/nowhere")
    real, Path.unlink = Path.unlink, lambda self, missing_ok=False: None  # type: ignore[method-assign]
    try:
        fails(Unavailable, store(hub).fetch(revision, ["r/large"], full), "No space left on device")
    finally:
        Path.unlink = real  # type: ignore[method-assign]


@pytest.mark.parametrize("token", [None, DEFAULT_TOKEN])
def test_reading_a_public_repo_needs_no_token(hub: LocalHub, into: Path, revision: str, token: str | None) -> None:
    hub.set_private(REPO, False)
    s = store(hub, token=token)
    assert run(s.head()) == revision
    run(s.fetch(revision, ["r/large"], into))
    assert files(into) == {"r/large": LARGE}
