"""Commits on a Hub that fails in its own ways: what is told apart, what is tried again, and what never twice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.stores.base import Conflict, Corrupt, Denied, NotFound, Refused, Unavailable
from sidecar.stores.hub import HubStore
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import BRISK, HASTY, REPO, fails, local_hub, run, store

BINARY = bytes(range(256)) * 8
TITLE = "sidecar: snapshot 3.7"


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


def titles(hub: LocalHub) -> list[str]:
    return [c["title"] for c in hub.commits(REPO)]


# -- a commit that was sent and not answered --


@pytest.mark.parametrize("action", ["land_then_status", "land_then_cut", "land_then_hang"])
def test_a_commit_that_landed_unanswered_is_found(hub: LocalHub, action: str) -> None:
    head = hub.edit(REPO, {"old": b"1"})
    hub.fault(action, endpoint="commit", status=503)
    patience = BRISK if action == "land_then_hang" else HASTY
    revision = run(
        store(hub, patience=patience).commit(head, {"x": b"1", "y.bin": BINARY}, ["old"], f"{TITLE}\n\nmore")
    )
    assert revision == hub.head(REPO)
    assert titles(hub) == [TITLE, "Edit from outside", "initial commit"]
    assert hub.count("commit") == 1, "sent twice"


def test_a_first_commit_that_landed_unanswered_is_found(hub: LocalHub) -> None:
    hub.fault("land_then_cut", endpoint="commit")
    assert run(store(hub).commit(None, {"x": b"1"}, [], TITLE)) == hub.head(REPO)


def test_a_landed_commit_is_found_below_somebody_elses(hub: LocalHub) -> None:
    """Between the lost answer and our look at the history there may be another commit."""
    head = hub.head(REPO)
    s = store(hub)
    landed = run(s.commit(head, {"x": b"1"}, [], TITLE))
    hub.edit(REPO, {"z": b"1"})
    # The same commit again meets 412, and our own title on top of the parent that it names.
    assert run(s.commit(head, {"x": b"1"}, [], TITLE)) == landed


@pytest.mark.parametrize("action", ["status", "cut_request", "hang"])
def test_a_commit_without_effect_is_unclear_and_not_repeated(hub: LocalHub, action: str) -> None:
    head = hub.head(REPO)
    hub.fault(action, endpoint="commit", status=500, after=10)
    patience = BRISK if action == "hang" else HASTY
    error = fails(Unavailable, store(hub, patience=patience).commit(head, {"x": b"1"}, [], TITLE))
    assert error.unclear
    assert hub.count("commit") == 1
    assert hub.head(REPO) == head


@pytest.mark.parametrize("action", ["cut_response", "truncate"])
def test_an_answer_cut_in_its_middle(hub: LocalHub, action: str) -> None:
    hub.fault(action, endpoint="commit", after=5)
    revision = run(store(hub).commit(hub.head(REPO), {"x": b"1"}, [], TITLE))
    assert revision == hub.head(REPO)
    assert hub.count("commit") == 1


def test_somebody_elses_commit_with_our_title_is_not_ours(hub: LocalHub) -> None:
    head = hub.head(REPO)
    hub.fault("status", endpoint="commit", status=500)
    hub.edit(REPO, {"z": b"1"})
    hub.edit(REPO, {"y": b"1"}, title=TITLE)  # another parent
    assert fails(Unavailable, store(hub).commit(head, {"x": b"1"}, [], TITLE)).unclear
    fails(Conflict, store(hub).commit(head, {"x": b"1"}, [], TITLE))


def test_our_title_without_our_files_is_not_taken_for_done(hub: LocalHub) -> None:
    head = hub.head(REPO)
    hub.edit(REPO, {"x": b"other"}, title=TITLE)
    fails(Corrupt, store(hub).commit(head, {"x": b"1"}, [], TITLE), "other bytes at 'x'")


def test_a_commit_that_lands_late_is_waited_for(hub: LocalHub) -> None:
    """The Hub's time limit cuts the answer off, not the commit."""
    hub.settings(commit_seconds=0.4)
    head = hub.head(REPO)
    patient = replace(HASTY, commit=0.2, pause=0.15, longest=0.3)
    revision = run(store(hub, patience=patient).commit(head, {"x": b"1"}, [], TITLE))
    assert revision == hub.head(REPO)
    assert titles(hub)[0] == TITLE


# -- limits --


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7), ("0", 0), (None, None), ("999999", 600), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None)],
)
def test_too_many_commits(hub: LocalHub, given: str | None, seconds: float | None) -> None:
    head = hub.head(REPO)
    headers = {} if given is None else {"Retry-After": given}
    hub.fault("status", endpoint="commit", status=429, headers=headers, body='{"error":"128 commits per hour"}')
    begin = time.monotonic()
    error = fails(Unavailable, store(hub).commit(head, {"x": b"1"}, [], TITLE), "429", "128 commits per hour")
    assert (error.retry_after, error.unclear) == (seconds, False)
    assert time.monotonic() - begin < 2, "slept on the Hub's word"
    assert hub.count("commit") == 1


def test_the_hubs_own_commit_limit(hub: LocalHub) -> None:
    hub.settings(commits_per_hour=2, commit_retry_after="1")
    s = store(hub)
    one = run(s.commit(hub.head(REPO), {"x": b"1"}, [], "one"))
    fails(Unavailable, s.commit(one, {"x": b"2"}, [], "two"), "429")
    assert hub.head(REPO) == one


@pytest.mark.parametrize("endpoint", ["preupload", "lfs_batch", "lfs_put", "lfs_verify", "paths_info"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_steps_that_may_be_repeated_are(hub: LocalHub, endpoint: str, status: int) -> None:
    hub.fault("status", endpoint=endpoint, status=status, times=2, headers={"Retry-After": "0"})
    run(store(hub).commit(hub.head(REPO), {"x": b"1", "y.bin": BINARY}, [], TITLE))
    assert hub.files(REPO) == {"x": b"1", "y.bin": BINARY}
    assert titles(hub) == [TITLE, "initial commit"]


@pytest.mark.parametrize("endpoint", ["preupload", "lfs_batch", "lfs_put"])
def test_a_waiting_time_that_is_too_long_goes_to_the_caller(hub: LocalHub, endpoint: str) -> None:
    hub.fault("status", endpoint=endpoint, status=429, times=None, headers={"Retry-After": "300"})
    begin = time.monotonic()
    error = fails(Unavailable, store(hub).commit(hub.head(REPO), {"y.bin": BINARY}, [], TITLE), "429")
    assert (error.retry_after, error.unclear) == (300, False)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("action", ["cut_request", "hang", "status"])
@pytest.mark.parametrize("endpoint", ["preupload", "lfs_put"])
def test_an_upload_that_never_gets_through(hub: LocalHub, endpoint: str, action: str) -> None:
    head = hub.head(REPO)
    hub.fault(action, endpoint=endpoint, times=None, after=100)
    patience = replace(BRISK, read=0.2) if action == "hang" else HASTY
    error = fails(Unavailable, store(hub, patience=patience).commit(head, {"y.bin": BINARY}, [], TITLE))
    assert not error.unclear
    assert hub.count("commit") == 0
    assert hub.head(REPO) == head


def test_an_upload_that_is_cut_goes_on(hub: LocalHub, tmp_path: Path) -> None:
    data = os.urandom(400_000)
    (tmp_path / "big").write_bytes(data)
    hub.fault("cut_request", endpoint="lfs_put", after=100_000, times=2)
    run(store(hub).commit(hub.head(REPO), {"big": tmp_path / "big", "other.bin": BINARY}, [], TITLE))
    assert hub.files(REPO) == {"big": data, "other.bin": BINARY}


@pytest.mark.parametrize("times", [1, None])
def test_another_commit_under_way(hub: LocalHub, times: int | None) -> None:
    hub.fault("status", endpoint="commit", status=409, times=times, body='{"error":"in progress"}')
    commit = store(hub).commit(hub.head(REPO), {"x": b"1"}, [], TITLE)
    if times:
        assert run(commit) == hub.head(REPO)
        assert titles(hub) == [TITLE, "initial commit"]
    else:
        assert not fails(Unavailable, commit, "busy", "in progress").unclear
        assert hub.count("commit") == HASTY.tries


def test_waiting_for_another_commit_leaves_nothing_unclear(hub: LocalHub) -> None:
    hub.fault("status", endpoint="commit", status=409, times=None)
    s = store(hub, patience=replace(HASTY, pause=9, longest=9))

    async def main() -> None:
        with s.limit(2):
            await s.commit(hub.head(REPO), {"x": b"1"}, [], TITLE)

    begin = time.monotonic()
    assert not fails(Unavailable, main()).unclear
    assert time.monotonic() - begin < 2, "began a wait that can't end in time"


def test_behind_our_own_commit_that_is_still_under_way(hub: LocalHub) -> None:
    """It was cut off, then another try meets 409, then 412: that other commit is ours."""
    hub.settings(commit_seconds=0.3)
    head = hub.head(REPO)
    impatient = replace(HASTY, commit=0.1, pause=0.001, longest=0.001)
    assert fails(Unavailable, store(hub, patience=impatient).commit(head, {"x": b"1"}, [], TITLE)).unclear
    patient = replace(HASTY, tries=6, pause=0.1, longest=0.2)
    assert run(store(hub, patience=patient).commit(head, {"x": b"1"}, [], TITLE)) == hub.head(REPO)
    assert titles(hub) == [TITLE, "initial commit"]


# -- refusals --


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, "Invalid credentials in Authorization header", ("401", "expired", "Settings > Secrets")),
        (403, "Forbidden: you must use a write token", ("403", "write token", "Settings > Secrets")),
        (403, "Private repository storage limit reached", ("no room", "storage limit reached")),
        (402, "Payment required", ("no room", "402")),
        (413, "Payload too large", ("no room", "413")),
        (507, "Insufficient", ("no room", "507")),
        (400, "Bad request: nonsense", ("400", "nonsense")),
    ],
)
@pytest.mark.parametrize("endpoint", ["commit", "preupload", "lfs_batch"])
def test_a_no_is_passed_on_with_what_to_do(
    hub: LocalHub, endpoint: str, status: int, body: str, words: tuple[str, ...]
) -> None:
    head = hub.head(REPO)
    hub.fault("status", endpoint=endpoint, status=status, times=None, body=f'{{"error":"{body}"}}')
    begin = time.monotonic()
    fails(Denied, store(hub).commit(head, {"y.bin": BINARY}, [], TITLE), *words)
    assert time.monotonic() - begin < 2
    assert hub.count(endpoint) == 1, "a no was asked for again"
    assert hub.head(REPO) == head


def test_the_hubs_own_quota(hub: LocalHub) -> None:
    hub.settings(private_quota=10_000)
    head = hub.head(REPO)
    fails(Denied, store(hub).commit(head, {"big.bin": os.urandom(20_000)}, [], TITLE), "no room", REPO)
    fails(Denied, store(hub).commit(head, {"big.txt": b"text " * 4_000}, [], TITLE), "no room", REPO)
    assert hub.head(REPO) == head


@pytest.mark.parametrize("role", ["read", "expired", "revoked", "other"])
def test_a_token_that_may_not_write(hub: LocalHub, role: str) -> None:
    head = hub.head(REPO)
    hub.add_token("hf_changed12345", "bob" if role == "other" else "alice", "write")
    s = store(hub, token="hf_changed12345")
    if role != "other":
        assert run(s.head()) == head
    if role == "revoked":
        hub.revoke_token("hf_changed12345")
    elif role != "other":
        new = "read" if role == "read" else "write"
        hub.add_token("hf_changed12345", "alice", new, expired=role == "expired")
    kind, word = (NotFound, "token can't see it") if role == "other" else (Denied, "Settings > Secrets")
    error = fails(kind, s.commit(head, {"x": b"1"}, [], TITLE), word)
    assert "hf_changed12345" not in error.message
    assert hub.head(REPO) == head


def test_a_repo_that_went_away(hub: LocalHub) -> None:
    head = hub.head(REPO)
    s = store(hub)
    hub.delete_repo(REPO)
    for call in (
        s.head(),
        s.commit(head, {"x": b"1"}, [], TITLE),
        s.commit(head, {}, ["x"], TITLE),
        s.history(1),
    ):
        fails(NotFound, call, "SIDECAR_STORE", REPO)


# -- paths that the Hub won't carry --


def test_a_gitignored_path_is_refused_before_the_commit(hub: LocalHub) -> None:
    head = hub.edit(REPO, {"app/.gitignore": b"*.log\n", ".gitignore": b"secret/\n"})
    for path in ("app/deep/x.log", "secret/key", "app/big.log"):
        body = BINARY if "big" in path else b"1"
        error = fails(Refused, store(hub).commit(head, {"ok": b"1", path: body}, [], TITLE), path, "bundle")
        assert error.path == path
    assert hub.count("commit") == 0
    assert hub.head(REPO) == head


def test_a_path_that_was_dropped_unseen_is_found_after_the_commit(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that no longer tells: the look at the commit does."""
    monkeypatch.setattr("sidecar.stores.hubcommit._left_out", lambda addition: False)
    head = hub.edit(REPO, {".gitignore": b"*.log\n"})
    error = fails(Refused, store(hub).commit(head, {"ok": b"1", "x.log": b"2"}, [], TITLE), "'x.log'", "bundle")
    assert error.path == "x.log"
    assert hub.head(REPO) != head, "this is about a commit that was made"


@pytest.mark.parametrize("path", ["home/.cache/x", ".git/config", "a/.git/x"])
def test_paths_that_the_client_wont_take(hub: LocalHub, path: str) -> None:
    error = fails(Refused, store(hub).commit(hub.head(REPO), {"ok": b"1", path: b"2"}, [], TITLE), path)
    assert error.path == path


def test_a_readme_that_the_hub_wont_take(hub: LocalHub) -> None:
    head = hub.head(REPO)
    bad = b"---\nviewer: [\n---\n"
    assert fails(Refused, store(hub).commit(head, {"README.md": bad}, [], TITLE)).path == "README.md"
    run(store(hub).commit(head, {"README.md": b"---\nviewer: false\n---\nhello"}, [], TITLE))


def test_a_400_that_names_a_path_is_about_that_path(hub: LocalHub) -> None:
    hub.fault("status", endpoint="commit", status=400, body='{"error":"invalid name: d/bad.txt"}')
    commit = store(hub).commit(hub.head(REPO), {"d/bad": b"0", "d/bad.txt": b"1", "name": b"2"}, [], TITLE)
    assert fails(Refused, commit, "invalid name").path == "d/bad.txt"


# -- what was committed is looked at --


def test_a_commit_that_holds_other_bytes_is_not_called_durable(hub: LocalHub) -> None:
    oid = "56a6051ca2b02b04ef92d5150c9ef600403cb1de"  # git's blob "1"
    for n, (size, blob) in enumerate([(1, "0" * 40), (2, oid)]):
        body = f'[{{"type":"file","path":"x{n}","size":{size},"oid":"{blob}"}}]'
        hub.fault("status", endpoint="paths_info", status=200, body=body)
        fails(Corrupt, store(hub).commit(hub.head(REPO), {f"x{n}": b"1"}, [], TITLE), f"other bytes at 'x{n}'")
    body = f'[{{"type":"file","path":"x0","size":1,"oid":"{oid}"}}]'
    hub.fault("status", endpoint="paths_info", status=200, body=body, skip=1)
    fails(Corrupt, store(hub).commit(hub.head(REPO), {}, ["x0"], TITLE), "still holds 'x0'")


def test_a_commit_that_cant_be_looked_at_is_unclear(hub: LocalHub) -> None:
    hub.fault("status", endpoint="paths_info", status=500, times=None)
    error = fails(Unavailable, store(hub).commit(hub.head(REPO), {"x": b"1"}, [], TITLE))
    assert error.unclear
    hub.clear_faults()
    hub.fault("status", endpoint="paths_info", status=500, times=HASTY.tries)
    assert run(store(hub).commit(hub.head(REPO), {"y": b"1"}, [], "two")) == hub.head(REPO)


def test_a_commit_not_yet_visible_is_waited_for(hub: LocalHub) -> None:
    missing = {"X-Error-Code": "RevisionNotFound"}
    hub.fault("status", endpoint="paths_info", status=404, times=2, headers=missing)
    assert run(store(hub).commit(hub.head(REPO), {"x": b"1"}, [], TITLE)) == hub.head(REPO)


# -- time --


@pytest.mark.parametrize("endpoint", ["paths_info", "preupload", "lfs_put", "commit", "commits"])
def test_no_hang_outlives_a_limit(hub: LocalHub, endpoint: str) -> None:
    s: HubStore = store(hub, patience=replace(HASTY, read=30, commit=30, request=60))
    hub.fault("hang", endpoint=endpoint, times=None)
    if endpoint == "commits":
        hub.fault("status", endpoint="commit", status=500)

    async def main() -> None:
        with s.limit(0.5):
            await s.commit(hub.head(REPO), {"y.bin": BINARY}, ["z"], TITLE)

    begin = time.monotonic()
    assert fails(Unavailable, main()).unclear == (endpoint in ("commit", "commits"))
    assert time.monotonic() - begin < 1.5
    deadline = time.monotonic() + 2
    while (left := [t for t in threading.enumerate() if t.name == "sidecar-hub"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == [], "a given up thread still waits for the Hub"


def test_a_hub_that_is_down_is_no_unclear_commit(hub: LocalHub) -> None:
    head = hub.head(REPO)
    s = store(hub)
    hub.stop()
    assert not fails(Unavailable, s.commit(head, {"x": b"1"}, [], TITLE), "out of reach").unclear
    fails(Unavailable, s.head(), "out of reach")
    fails(Unavailable, store(hub, token=DEFAULT_TOKEN).check(), "out of reach")
    hub.start()
    assert run(s.commit(head, {"x": b"1"}, [], TITLE)) == hub.head(REPO)
