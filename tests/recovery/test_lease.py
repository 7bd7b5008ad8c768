"""Who may write: the tables of decisions. What becomes of them when several live at once stands in test_lives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.recovery.lease import Lease, Me, Refuse, Take, Tenure, Wait, decide, decode, encode
from sidecar.recovery.turns import Left, goes_on, lets_go, reclaims
from sidecar.snapshot.manifest import SnapshotId

ME = Me("me", "local")
STATES = ["held", "requested", "handing_over", "released"]


def lease(state: str = "held", **more: Any) -> Lease:
    return replace(Lease(7, "other", "local", state), **more)  # type: ignore[arg-type]


# The document


@given(
    st.builds(
        Lease,
        st.integers(0, 10**17),
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.sampled_from(STATES),
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.booleans(),
        st.integers(0, 10**17),
    )
)
def test_a_lease_survives_its_document(one: Lease) -> None:
    assert decode(encode(one)) == one


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"held"',
        b"{}",
        b"\xff",
        encode(lease()).replace(b'"epoch": 7', b'"epoch": -1'),
        encode(lease()).replace(b'"epoch": 7', b'"epoch": 7.5'),
        encode(lease()).replace(b'"epoch": 7', b'"epoch": true'),
        encode(lease()).replace(b'"epoch": 7', b'"epoch": "7"'),
        encode(lease()).replace(b'"epoch": 7', b'"epoch": 1e400'),
        encode(lease()).replace(b'"epoch": 7', b'"epoch": 1000000000000000000'),
        encode(lease()).replace(b'"turn": 0', b'"turn": "0"'),
        encode(lease()).replace(b'"turn": 0', b'"turn": null'),
        encode(lease()).replace(b'"held"', b'"lost"'),
        encode(lease()).replace(b'"held"', b"[]"),
        encode(lease()).replace(b'"other"', b"5"),
        encode(lease()).replace(b'"local"', b"null"),
        encode(lease(requester="x")).replace(b'"x"', b"{}"),
    ],
)
def test_what_is_no_lease_is_not_believed(raw: bytes) -> None:
    with pytest.raises(ManifestError) as raised:
        decode(raw)
    assert "lease.json" in raised.value.message


def test_a_newer_format_is_no_damage() -> None:
    with pytest.raises(ManifestError, match="update space-sidecar") as raised:
        decode(b'{"format": 2, "epoch": 1}')
    assert not raised.value.damage


# Decisions

MINE = Lease(8, "me", "local", "held")


@pytest.mark.parametrize(
    ("found", "more", "decision"),
    [
        (None, {}, Take(Lease(1, "me", "local", "held"), None)),
        (None, {"least_epoch": 7}, Take(MINE, None)),
        (lease("released"), {}, Take(MINE, False)),
        (lease("released", clean=True), {}, Take(MINE, True)),
        (lease("released", epoch=3), {"least_epoch": 7}, Take(MINE, False)),
        (lease(), {}, Wait(lease(), lease("requested", requester="me", turn=1))),
        (lease("requested", requester="me"), {}, Wait(lease("requested", requester="me"), None)),
        (lease("requested", requester="third"), {}, Wait(lease("requested", requester="third"), None)),
        (lease("handing_over"), {}, Wait(lease("handing_over"), None)),
        (lease(), {"silent": True}, Take(MINE, False)),
        (lease("requested", requester="third"), {"silent": True}, Take(MINE, False)),
        (lease("handing_over"), {"silent": True}, Take(MINE, False)),
        # This very instance again, its agent restarted: the epoch stays.
        (lease(instance="me"), {}, Take(replace(MINE, epoch=7), None)),
        (lease("requested", instance="me", requester="x"), {}, Take(replace(MINE, epoch=7), None)),
        (lease("released", instance="me", clean=True), {}, Take(MINE, True)),
        # Another identity's: nothing is written, whatever it does.
        *((lease(state, space="prod"), {}, Refuse(lease(state, space="prod"))) for state in STATES),
        (lease(space="prod"), {"silent": True}, Refuse(lease(space="prod"))),
        (lease(space="prod", instance="me"), {}, Refuse(lease(space="prod", instance="me"))),
    ],
)
def test_what_a_start_does_about_the_lease_that_it_found(found: Any, more: dict[str, Any], decision: Any) -> None:
    assert decide(found, ME, **more) == decision


def test_a_lease_is_adopted_on_request_only_and_then_carries_the_new_identity() -> None:
    found = lease("released", space="prod", clean=True)
    assert decide(found, Me("me", "local", adopt="prod")) == Take(MINE, True)
    assert isinstance(decide(found, Me("me", "local", adopt="another")), Refuse)
    assert isinstance(decide(lease(space="prod"), Me("me", "local", adopt="prod")), Wait), "a live one is asked first"


@given(
    st.none() | st.builds(Lease, st.integers(0, 50), st.sampled_from("ab"), st.just("local"), st.sampled_from(STATES)),
    st.integers(0, 50),
    st.booleans(),
)
def test_an_epoch_never_falls(found: Lease | None, least: int, silent: bool) -> None:
    decision = decide(found, Me("a", "local"), least_epoch=least, silent=silent)
    if isinstance(decision, Take):
        before = found.epoch if found else 0
        same = found is not None and found.instance == "a" and found.state != "released"
        assert decision.lease.epoch == before if same else decision.lease.epoch > max(before, least)
        assert (decision.lease.instance, decision.lease.state) == ("a", "held")


# What the head says of us


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (encode(MINE), "mine"),
        (encode(replace(MINE, state="handing_over", turn=3)), "mine"),
        (encode(replace(MINE, state="requested", requester="x")), "requested"),
        (encode(replace(MINE, state="released")), "fenced"),
        (encode(replace(MINE, epoch=9)), "fenced"),
        (encode(lease(epoch=9)), "fenced"),
        (encode(lease("released", epoch=9)), "fenced"),
        (encode(lease(epoch=8)), "fenced"),  # two that took the same epoch: neither may go on blindly
        (encode(lease(epoch=7)), "older"),  # put back by hand, or claimed after ours was deleted
        (encode(replace(MINE, epoch=7)), "lost"),  # our own of before
        (None, "lost"),
        (b"broken", "lost"),
        (b'{"format": 2}', "fenced"),  # a newer version's: it knows more than we do
    ],
)
def test_what_the_lease_at_the_head_says_of_us(raw: bytes | None, verdict: str) -> None:
    assert Tenure(MINE).judge(raw) == verdict


def test_what_a_holder_writes() -> None:
    tenure = Tenure(MINE)
    assert decode(tenure.held()).state == "held"
    assert [decode(tenure.handing_over()).turn for _ in range(3)] == [1, 2, 3], "whoever waits sees that we live"
    assert tenure.judge(tenure.handing_over()) == "mine"
    done = decode(tenure.released(clean=True))
    assert (done.state, done.clean, done.epoch, done.instance) == ("released", True, 8, "me")


# An agent that comes after another one


@pytest.mark.parametrize(
    ("found", "stands", "writer", "unmoved", "on"),
    [
        (MINE, SnapshotId(8, 5), "me", True, True),
        (MINE, SnapshotId(7, 5), "other", False, True),  # its index was lost: the lease is what counts
        (MINE, None, "", False, True),
        (MINE, SnapshotId(9, 1), "other", True, False),  # our lease was put back by hand after somebody had written
        (lease("released"), SnapshotId(7, 5), "other", True, True),
        (lease("released"), SnapshotId(7, 5), "other", False, False),
        (lease("held"), SnapshotId(7, 5), "other", True, False),
        (None, SnapshotId(7, 5), "other", True, True),
        (None, SnapshotId(8, 5), "me", False, True),
        (None, SnapshotId(9, 1), "other", False, False),  # deleted by hand: who has written since is not us
        (None, None, "", False, True),
    ],
)
def test_whether_an_agent_that_comes_after_another_goes_on_with_the_main_line(
    found: Lease | None, stands: SnapshotId | None, writer: str, unmoved: bool, on: bool
) -> None:
    assert goes_on(found, stands, writer, ME, unmoved=unmoved) == on


# What a start that comes to nothing leaves


@pytest.mark.parametrize(
    ("found", "given"),
    [
        (None, None),
        (lease("held"), None),
        (lease("released", requester="me"), None),
        (lease("requested", requester="third"), None),
        (lease("requested", requester="me", turn=3), lease("held", turn=4)),
        (lease("handing_over", requester="me", turn=3), lease("held", turn=4)),
        (MINE, replace(MINE, state="released", clean=True)),
        (replace(MINE, state="requested", requester="x"), replace(MINE, state="released", clean=True)),
        (replace(MINE, state="released"), None),
    ],
)
def test_what_a_start_that_comes_to_nothing_gives_back(found: Lease | None, given: Lease | None) -> None:
    got = lets_go(found, ME, clean=True)
    assert (replace(got, since=0.0) if got else None) == given


# Taking it again after a hand-over

AS_LEFT, OTHER = SnapshotId(8, 5), SnapshotId(9, 1)
LEFT = Left(8, frozenset({AS_LEFT}))
OURS = replace(MINE, state="released")


@pytest.mark.parametrize(
    ("found", "stands", "waited", "again"),
    [
        (OURS, AS_LEFT, 30.0, True),
        (OURS, AS_LEFT, 29.9, False),  # who asked may be on its way
        (OURS, OTHER, 99.0, False),
        (OURS, None, 99.0, False),
        (lease("released", epoch=9), AS_LEFT, 0.0, True),
        (lease("released", epoch=9), OTHER, 99.0, False),  # it wrote: what it wrote stays
        (lease("held", epoch=9), AS_LEFT, 99.0, False),
        (lease("requested", epoch=9), AS_LEFT, 99.0, False),
        (lease("handing_over", epoch=9), AS_LEFT, 99.0, False),
        (lease("released", epoch=8), AS_LEFT, 99.0, False),  # put back by hand
        (replace(lease("released", epoch=9), space="another"), AS_LEFT, 99.0, False),
        (MINE, AS_LEFT, 99.0, False),
        (replace(MINE, epoch=9), AS_LEFT, 0.0, True),  # our claim, whose answer never came
        (replace(OURS, epoch=9), AS_LEFT, 99.0, False),
    ],
)
def test_when_a_fenced_instance_takes_the_lease_again(
    found: Lease, stands: SnapshotId | None, waited: float, again: bool
) -> None:
    assert reclaims(found, stands, Me("me", "local"), LEFT, waited_s=waited, patience_s=30.0) == again


# What is told of the resume of an epoch

ENDS = ("killed first", "withdrawn first", "killed in it", "stopped in it", "unheard", "heard, killed", "released")
"""How a life with resume commands ends: before they began, in their midst, or after their end."""


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(ENDS)), max_size=8))
def test_a_resume_that_may_have_begun_is_open_until_one_is_known_to_have_ended(lives: list[tuple[bool, str]]) -> None:
    stored: bytes | None = None
    is_open = False
    for number, (resumes, end) in enumerate(lives):
        found = decode(stored) if stored is not None else None
        decision = decide(found, Me(f"i{number}", "local", resumes=resumes), silent=True)
        assert isinstance(decision, Take)
        assert decision.interrupted is is_open
        tenure = Tenure(decision.lease, decision.interrupted)
        stored = tenure.held()
        if resumes and end not in ("killed first", "withdrawn first"):
            tenure.begin_resume()
            if end not in ("killed in it", "stopped in it"):
                tenure.end_resume()
        if end == "heard, killed":
            stored = tenure.held()
        elif end in ("withdrawn first", "stopped in it", "released"):
            stored = tenure.released(clean=end == "released")
        if resumes:
            closed = {"withdrawn first": is_open, "heard, killed": False, "released": False}
            is_open = closed.get(end, True)


def test_a_lease_of_an_older_version_tells_of_no_resume() -> None:
    raw = encode(lease()).replace(b'  "resuming": false,\n', b"")
    assert b"resuming" not in raw
    assert decode(raw).resuming is False
