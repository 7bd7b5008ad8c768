"""What a token may do, who else can read, and a dataset that is missing, ours to make, or only invisible."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sidecar.stores.base import Denied, NotFound, Public, Unavailable
from tests.hub.identity import DEFAULT_TOKEN, OTHER_TOKEN, READ_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import BRISK, HASTY, REPO, fails, local_hub, run, store

NEW = "alice/new-state"
FINE = "hf_fineFineFineFine"


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


def repos(hub: LocalHub) -> dict[str, bool]:
    return {r["repo"]: r["private"] for r in hub.repos()}


def test_a_dataset_of_ours(hub: LocalHub) -> None:
    access = run(store(hub).check(create=True))
    assert (access.writable, access.exists, access.created, access.public) == (True, True, False, False)
    assert access.now is not None
    assert abs(access.now - time.time()) < 5
    assert "alice" in access.detail
    assert DEFAULT_TOKEN not in access.detail


def test_a_missing_one_is_made_private_and_only_then_called_missing(hub: LocalHub) -> None:
    access = run(store(hub, repo=NEW).check(create=True))
    assert (access.writable, access.exists, access.created, access.public) == (True, False, True, False)
    assert repos(hub)[NEW] is True
    again = run(store(hub, repo=NEW).check(create=True))
    assert (again.exists, again.created) == (True, False)


def test_without_create_nothing_is_made_and_nothing_called_missing(hub: LocalHub) -> None:
    fails(NotFound, store(hub, repo=NEW).check(), NEW, "SIDECAR_STORE")
    assert NEW not in repos(hub)


def test_somebody_elses_private_dataset_is_not_missing(hub: LocalHub) -> None:
    hub.create_repo("bob/secret")
    error = fails(Denied, store(hub, repo="bob/secret").check(create=True), "bob/secret")
    assert "Settings > Secrets" in error.message
    hub.set_orgs("alice", ["team"])
    hub.set_orgs("bob", ["team"])
    hub.create_repo("team/shared")
    hub.add_token(
        FINE, "alice", "fineGrained", scopes=[("user", "alice", ["repo.write"])]
    )  # may create, but not see that one
    fails(Denied, store(hub, repo="team/shared", token=FINE).check(create=True), "team/shared")


def test_a_409_at_its_making_means_that_it_is_there(hub: LocalHub) -> None:
    """Between not being seen and being made: it exists, so it is no first start."""
    missing = {"X-Error-Code": "RepoNotFound"}
    hub.fault("status", endpoint="info", status=404, headers=missing)
    fails(Denied, store(hub).check(create=True), REPO, "exists", "can't see it")


def test_an_unclear_making_is_no_first_start(hub: LocalHub) -> None:
    hub.fault("land_then_cut", endpoint="create_repo")
    fails(Unavailable, store(hub, repo=NEW).check(create=True))
    assert hub.count("create_repo") == 1
    access = run(store(hub, repo=NEW).check(create=True))
    assert (access.exists, access.created) == (True, False)


def test_a_making_that_waits_for_another_ends(hub: LocalHub) -> None:
    """The client itself would ask again for ever, without a pause."""
    body = '{"error":"Cannot create repo: another conflicting operation is in progress"}'
    hub.fault("status", endpoint="create_repo", status=409, body=body, times=None)
    fails(Unavailable, store(hub, repo=NEW).check(create=True), "conflicting operation")
    assert hub.count("create_repo") == 1


def test_a_public_dataset(hub: LocalHub) -> None:
    hub.set_private(REPO, False)
    error = fails(Public, store(hub).check(create=True), "public", "SIDECAR_PUBLIC=allow", "private")
    assert "SIDECAR_AGE_RECIPIENT" in error.message
    access = run(store(hub, allow_public=True).check())
    assert (access.public, access.writable) == (True, True)


@pytest.mark.parametrize("token", [None, ""])
def test_no_token(hub: LocalHub, token: str | None) -> None:
    hub.reset()
    fails(Denied, store(hub, token=token).check(create=True), "HF_TOKEN", "Settings > Secrets", REPO)
    assert hub.requests() == []
    # Where only reading is asked for, the Hub's answer is passed on in the same words.
    fails(Denied, store(hub, token=token).listing(hub.head(REPO)), "HF_TOKEN", "Settings > Secrets")


@pytest.mark.parametrize("how", ["unknown", "expired", "revoked"])
def test_a_token_that_is_no_longer_good(hub: LocalHub, how: str) -> None:
    token = "hf_goneGoneGone"
    if how != "unknown":
        hub.add_token(token, "alice", expired=how == "expired")
    if how == "revoked":
        hub.revoke_token(token)
    error = fails(Denied, store(hub, token=token).check(create=True), "401", "Renew HF_TOKEN", "Settings > Secrets")
    assert token not in error.message
    assert hub.count("create_repo") == 0


def test_a_read_token(hub: LocalHub) -> None:
    access = run(store(hub, token=READ_TOKEN).check(create=True))
    assert (access.writable, access.exists) == (False, True)
    assert "can only read" in access.detail
    fails(Denied, store(hub, repo=NEW, token=READ_TOKEN).check(create=True), NEW, "may not create", "HF_TOKEN")


@pytest.mark.parametrize(
    ("permissions", "writable"),
    [(["repo.content.read"], False), (["repo.content.read", "repo.write"], True), (["repo.write"], True)],
)
def test_a_fine_grained_token(hub: LocalHub, permissions: list[str], writable: bool) -> None:
    hub.add_token(FINE, "alice", "fineGrained", scopes=[("dataset", REPO, permissions)])
    access = run(store(hub, token=FINE).check(create=True))
    assert (access.writable, access.exists) == (writable, True)
    assert ("not write" in access.detail) == (not writable)


def test_a_fine_grained_token_for_another_repo(hub: LocalHub) -> None:
    hub.add_token(FINE, "alice", "fineGrained", scopes=[("dataset", NEW, ["repo.write"])])
    fails(Denied, store(hub, token=FINE).check(create=True), REPO, "may not create")
    fails(NotFound, store(hub, token=FINE).check(), REPO)


def test_another_accounts_token(hub: LocalHub) -> None:
    fails(Denied, store(hub, token=OTHER_TOKEN).check(create=True), REPO, "alice")
    hub.set_private(REPO, False)
    access = run(store(hub, token=OTHER_TOKEN, allow_public=True).check())
    assert (access.writable, access.public) == (False, True)


def test_too_many_questions_who_we_are(hub: LocalHub) -> None:
    """whoami has a strict limit of its own; what counts is asked for elsewhere."""
    hub.fault("status", endpoint="whoami", status=429, headers={"Retry-After": "3000"}, times=None)
    access = run(store(hub).check())
    assert (access.writable, access.exists) == (True, True)


@pytest.mark.parametrize("endpoint", ["whoami", "info", "auth_check_write"])
@pytest.mark.parametrize("action", ["status", "cut_response", "hang"])
def test_a_hub_that_stumbles(hub: LocalHub, endpoint: str, action: str) -> None:
    hub.fault(action, endpoint=endpoint, status=500)
    patience = BRISK if action == "hang" else HASTY
    assert run(store(hub, patience=patience).check()).writable
    hub.reset()
    hub.fault("status", endpoint=endpoint, status=502, times=None)
    if endpoint == "whoami":
        assert run(store(hub).check()).writable
    else:
        fails(Unavailable, store(hub, repo=REPO).check(create=True), "502")
    assert hub.count("create_repo") == 0
