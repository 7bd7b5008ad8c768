"""Whether two instances took the lease from each other is read from a store's history."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.recovery.claim import Claimed
from sidecar.recovery.claim import claim as claim_lease
from sidecar.recovery.holders import Turns, by_turns
from sidecar.recovery.lease import Lease, Me
from sidecar.recovery.turns import Waiting
from sidecar.stores.base import Commit
from sidecar.stores.folder import FolderStore

MIN = 60.0


def history(*lines: tuple[float, str]) -> list[Commit]:
    """Newest first, from lines of (minute, title), oldest first."""
    return [Commit(f"r{n}", title, at * MIN) for n, (at, title) in enumerate(lines)][::-1]


def claim(at: float, who: str) -> tuple[float, str]:
    return at, f"sidecar: lease {int(at) + 1} claimed by {who}"


def asked(at: float, who: str) -> tuple[float, str]:
    return at, f"sidecar: lease requested by {who}"


def gave(at: float) -> tuple[float, str]:
    return at, "sidecar: lease handing over"


def test_an_instance_that_takes_it_again_from_another_holds_it_by_turns():
    found = by_turns(history(claim(0, "a"), (1, "sidecar: snapshot 1.1"), claim(10, "b"), claim(30, "a")))
    assert found == Turns(("a", "b"), True, 30 * MIN)


def test_the_newest_time_counts_also_where_others_came_later():
    found = by_turns(history(claim(0, "a"), claim(10, "b"), claim(30, "a"), claim(500, "c")))
    assert found is not None
    assert found.last == 30 * MIN


def test_more_than_an_hour_between_is_no_quarrel():
    assert by_turns(history(claim(0, "a"), claim(30, "b"), claim(61, "a"))) is None


def test_a_crash_loop_and_a_rebuild_are_no_quarrel():
    loop = [line for n in range(20) for line in (asked(n, f"i{n}"), claim(n + 0.5, f"i{n}"))]
    assert by_turns(history(*loop)) is None, "each start has a name of its own, and nobody answered"
    rebuild = [
        claim(0, "a"),
        asked(5, "b"),
        gave(5),
        gave(5.3),
        gave(5.6),
        claim(6, "b"),
        asked(9, "c"),
        claim(10, "c"),
    ]
    assert by_turns(history(*rebuild)) is None, "b crashed later; a hand-over that takes long is one"
    assert by_turns(history(*rebuild[:6], gave(66), claim(66.1, "c"))) is None, "two rebuilds, an hour apart"


def test_living_containers_that_are_restarted_for_each_other():
    lines = [claim(0, "i0")]
    for n in range(1, 5):
        lines += [asked(n, f"i{n}"), gave(n), claim(n + 0.5, f"i{n}")]
    assert by_turns(history(*lines)) == Turns(("i4", "i3", "i2"), False, 4.5 * MIN)


def test_titles_are_those_that_real_instances_write(tmp_path):
    async def live() -> list[Commit]:
        store = FolderStore(tmp_path / "store")
        await store.check(create=True)
        head = None
        for name, epoch in (("a", 1), ("b", 2), ("a", 3)):
            lease = Lease(epoch - 1, "x", "local", "released") if epoch > 1 else None
            taken = await claim_lease(store, head, lease, Me(name, "local"), 0, Waiting(1.0))
            assert isinstance(taken, Claimed)
            head = taken.revision
        try:
            return await store.history(10)
        finally:
            await store.close()

    found = by_turns(asyncio.run(live()))
    assert found is not None
    assert (found.instances, found.again) == (("a", "b"), True)


def test_a_history_without_times_or_of_others_says_nothing():
    assert by_turns([]) is None
    assert by_turns([Commit("r", f"sidecar: lease 1 claimed by {who}", None) for who in "aba"]) is None
    assert by_turns([Commit("r", "Update README.md", 1.0)]) is None


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 300), st.sampled_from("abc")), max_size=9))
def test_it_is_told_exactly_where_a_holder_returns_within_the_hour(claims):
    claims = sorted(claims)
    lines = history(*(claim(at, who) for at, who in claims))
    times = [(at * MIN, who) for at, who in claims]
    pairs = [(i, k) for k in range(len(times)) for i in range(k) if times[i][1] == times[k][1]]
    returned = any(
        times[k][0] - times[i][0] <= 3600 and any(who != times[k][1] for _, who in times[i:k]) for i, k in pairs
    )
    assert (by_turns(lines) is not None) == returned
