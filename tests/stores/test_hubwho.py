"""What the Hub says of a token, and what the check makes of it: the real client against a local Hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.recovery import token
from sidecar.recovery.verdict import Verdict
from sidecar.settings import load
from sidecar.stores.hubwho import Standing
from tests.hub.identity import DEFAULT_TOKEN, READ_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import REPO, local_hub

FINE, ENDING, OLD = "hf_fineFineFineFineFine", "hf_endingEndingEnding", "hf_oldOldOldOldOldOldOld"
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


def checked(hub: LocalHub, tmp: Path, value: str, store: str = f"hf://datasets/{REPO}", limit_s: float = 20) -> Verdict:
    environ = {"HF_TOKEN": value, "HF_ENDPOINT": hub.url, "SIDECAR_STORE": store, "SIDECAR_STATE_DIR": str(tmp)}
    verdict = asyncio.run(token.check(load(environ, need_paths=False), limit_s))
    assert value not in verdict.reason
    return verdict


def test_one_that_may_write_passes(hub: LocalHub, tmp_path: Path) -> None:
    verdict = checked(hub, tmp_path, DEFAULT_TOKEN)
    assert verdict == Verdict("pass", "token 'local' of alice, role write")


def test_scopes_are_those_of_this_store(hub: LocalHub, tmp_path: Path) -> None:
    hub.add_token(FINE, "alice", "fineGrained", scopes=[("dataset", REPO, ["repo.content.read", "repo.write"])])
    assert checked(hub, tmp_path, FINE).result == "pass"
    hub.create_repo("alice/another")
    verdict = checked(hub, tmp_path, FINE, "hf://datasets/alice/another")
    assert (verdict.result, "alice/another" in verdict.reason) == ("fail", True), verdict


def test_one_that_only_reads_fails_for_a_store_on_the_hub_only(hub: LocalHub, tmp_path: Path) -> None:
    assert "can only read" in checked(hub, tmp_path, READ_TOKEN).reason
    assert checked(hub, tmp_path, READ_TOKEN, "file:///srv/store") == Verdict(
        "pass", "token 'local' of alice, role read"
    )


def test_one_that_ends_is_told_of(hub: LocalHub, tmp_path: Path) -> None:
    def ending(days: float) -> Verdict:
        at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + days * 86400 + 60))
        hub.add_token(ENDING, "alice", expiration=at)
        return checked(hub, tmp_path, ENDING)

    assert ending(30) == Verdict("pass", "token 'local' of alice, role write, expires in 30 days")
    assert ending(2).result == "warn"
    hub.add_token(OLD, "alice", expired=True)
    verdict = checked(hub, tmp_path, OLD)
    assert (verdict.result, "401" in verdict.reason) == ("fail", True), verdict
    assert checked(hub, tmp_path, "hf_neverSeenNeverSeen").result == "fail"


def test_a_hub_that_is_away_says_nothing_about_a_token(hub: LocalHub, tmp_path: Path) -> None:
    for fields in ({"action": "status", "status": 503}, {"action": "hang"}):
        rule = hub.fault(endpoint="whoami", times=None, **fields)
        began = time.monotonic()
        verdict = checked(hub, tmp_path, DEFAULT_TOKEN, limit_s=1)
        hub.clear_faults(rule)
        assert (verdict.result, "can't be judged" in verdict.reason) == ("warn", True), (fields, verdict)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("expires", "result"),
    [(None, "pass"), (NOW + 4 * 86400, "pass"), (NOW + 3600, "warn"), (NOW, "fail"), (NOW - 1, "fail")],
)
def test_verdicts(expires: float | None, result: str) -> None:
    assert token.judge(Standing("write", expires, None, "x"), NOW).result == result
    assert token.judge(Standing("write", expires, False, "x"), NOW).result == "fail"
