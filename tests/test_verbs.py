"""What an agent answers to a checkpoint and a sync, in every state that it can be in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sidecar.snapshot import stage as staging
from sidecar.state import RootState, State
from sidecar.stores.base import Denied, Unavailable
from sidecar.sync import line as lines
from sidecar.sync.bulletin import Result
from sidecar.sync.handover import heed_lease
from sidecar.sync.survey import Surveyor
from sidecar.verbs import AgentVerbs
from sidecar.web.verbs import Answer
from tests.snapshot.disk import FAST
from tests.sync.lives import Life, live
from tests.sync.test_engine import ask

GOOD = Result(True, "7.113", "abc", 3)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "backoff", lambda *_: 0.01)
    monkeypatch.setattr(staging, "SETTLE_NS", 0)


@pytest.fixture
def base() -> Iterator[Path]:
    with TemporaryDirectory(dir=FAST, prefix="sidecar-verbs-") as name:
        yield Path(name)


def state() -> State:
    made = State("me", "0", "local", "file:///x", True)
    made.roots = {name: RootState(name) for name in ("data", "home/user", "x.db")}
    return made


class Scripted:
    """An engine whose every result is ``result``."""

    def __init__(self, result: Result) -> None:
        self.result = result

    async def checkpoint(self) -> Result:
        return self.result

    async def snapshot(self, why: str) -> Result:
        assert why == "asked"
        return self.result


def answers(result: Result, *roots: str) -> tuple[Answer, Answer]:
    """To a checkpoint of ``roots``, and to a sync."""

    async def main() -> tuple[Answer, Answer]:
        verbs = AgentVerbs(state())
        verbs.engine = Scripted(result)  # type: ignore[assignment]
        return await verbs.checkpoint(roots, 5), await verbs.sync()

    return asyncio.run(main())


# Results, as HTTP says them


def test_what_is_durable_is_told_with_its_revision() -> None:
    checkpoint, sync = answers(GOOD)
    assert checkpoint == Answer(200, {"snapshot": "7.113", "revision": "abc"})
    assert sync == Answer(200, {"snapshot": "7.113", "revision": "abc", "changed": 3})


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        ("fenced", 409, None),
        ("unavailable", 503, 10.0),
        ("denied", 503, 10.0),
        ("no-room", 503, 10.0),
        ("failed", 503, 10.0),
        ("timeout", 504, None),
    ],
)
def test_what_failed_is_told_by_its_status(code: Any, status: int, retry: float | None) -> None:
    for answer in answers(Result(False, error="why", code=code)):
        assert (answer.status, answer.retry_after) == (status, retry)
        assert answer.body == {"error": code, "detail": "why"}
    if status == 503:
        assert answers(Result(False, code=code, retry_after=77.5))[0].retry_after == 77.5


def test_over_the_ceiling_it_is_said_when_to_come_again() -> None:
    answer = answers(Result(False, error="the commit ceiling is reached", retry_after=599.2))[0]
    assert (answer.status, answer.retry_after, answer.body["error"]) == (429, 600, "budget")


TROUBLE = Result(
    True,
    "7.113",
    "abc",
    troubled={"data/a": "unsettled", "data/b": "stale", "home/user": "unreadable"},
    held={"x.db": 1},
)


@pytest.mark.parametrize(
    ("roots", "reasons"),
    [
        ((), {"data": "unsettled", "home/user": "unreadable", "x.db": "a mass deletion is held back"}),
        (("data",), {"data": "unsettled"}),
        (("home/user", "x.db"), {"home/user": "unreadable", "x.db": "a mass deletion is held back"}),
    ],
)
def test_what_is_not_good_is_told_root_by_root_with_the_revision_all_the_same(
    roots: tuple[str, ...], reasons: dict[str, str]
) -> None:
    answer = answers(TROUBLE, *roots)[0]
    assert answer.status == 422
    assert answer.body == {"snapshot": "7.113", "revision": "abc", "error": "not-good", "roots": reasons}


def test_trouble_in_another_root_is_no_matter() -> None:
    result = Result(True, "7.113", "abc", troubled={"data/a": "stale", "data2/a": "stale"})
    assert answers(result, "home/user")[0].status == 200
    assert answers(Result(True, "7.113", "abc", troubled={"data2/a": "stale"}), "data")[0].status == 200


def test_a_root_that_nobody_declared_is_named() -> None:
    answer = answers(GOOD, "data", "nope")[0]
    assert (answer.status, answer.body["error"]) == (422, "unknown-root")
    assert "'nope'" in answer.body["detail"]


@pytest.mark.parametrize("lease", ["none", "unleased"])
def test_before_there_is_an_engine_it_is_too_early(lease: Any) -> None:
    async def main() -> None:
        verbs = AgentVerbs(state())
        verbs.state.phase, verbs.state.lease = "restoring", lease
        for answer in (await verbs.checkpoint((), 5), await verbs.checkpoint(("nope",), 5), await verbs.sync()):
            assert (answer.status, answer.body["error"]) == (503, "not-ready")
            assert answer.retry_after
            assert ("no lease" if lease == "unleased" else "restoring") in answer.body["detail"]

    asyncio.run(main())


# With a real engine


def test_a_checkpoint_makes_the_present_durable_and_says_where(base: Path) -> None:
    async def scenario(life: Life) -> None:
        verbs = AgentVerbs(life.state)
        verbs.engine = life.engine
        life.fill("a")
        answer = await verbs.checkpoint((), 30)
        assert (answer.status, answer.body) == (200, {"snapshot": "1.1", "revision": await life.store.head()})
        assert (await life.restored() / "data/a").exists()
        assert await verbs.checkpoint(("data",), 30) == answer, "nothing new: the same answer"
        assert (await verbs.sync()).body["changed"] == 0

    live(base, scenario)


def test_a_broken_database_makes_a_checkpoint_not_good_and_commits_the_rest(base: Path) -> None:
    async def scenario(life: Life) -> None:
        verbs = AgentVerbs(life.state)
        verbs.engine = life.engine
        life.fill("a")
        (life.root / "x.db").write_bytes(b"SQLite format 3\0" + b"broken" * 1000)
        answer = await verbs.checkpoint((), 30)
        assert (answer.status, answer.body["roots"]) == (422, {"data": "stale"})
        assert answer.body["revision"] == await life.store.head()
        assert (await life.restored() / "data/a").exists()

    live(base, scenario)


def test_a_checkpoint_that_takes_too_long_goes_on_without_its_caller(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(life: Life) -> None:
        may, real = threading.Event(), Surveyor.look

        def look(self: Surveyor, *args: Any) -> Any:
            assert may.wait(10)
            return real(self, *args)

        monkeypatch.setattr(Surveyor, "look", look)
        verbs = AgentVerbs(life.state)
        verbs.engine = life.engine
        life.fill("a")
        answer = await verbs.checkpoint((), 0.1)
        assert (answer.status, answer.body["error"]) == (504, "timeout")
        may.set()
        answer = await verbs.checkpoint((), 30)
        assert answer.status == 200
        assert answer.body["snapshot"] == "1.1"

    live(base, scenario)


@pytest.mark.parametrize(("fault", "status"), [(Unavailable("503", 42.0), 503), (Denied("401"), 503)])
def test_a_store_that_fails_is_told(base: Path, fault: Exception, status: int) -> None:
    async def scenario(life: Life) -> None:
        verbs = AgentVerbs(life.state)
        verbs.engine = life.engine
        life.store.plan["commit"] = [fault] * 3
        answer = await verbs.checkpoint((), 30)
        assert answer.status == status
        assert answer.retry_after == (42.0 if isinstance(fault, Unavailable) else 10.0)
        life.store.plan.clear()
        assert (await verbs.checkpoint((), 30)).status == 200

    live(base, scenario)


def test_after_a_hand_over_a_checkpoint_is_fenced(base: Path) -> None:
    async def scenario(life: Life) -> None:
        verbs = AgentVerbs(life.state)
        verbs.engine = life.engine
        life.fill("a")
        assert (await verbs.checkpoint((), 30)).status == 200
        await ask(life, "new")
        await heed_lease(life.engine)
        answer = await verbs.checkpoint((), 30)
        assert (answer.status, answer.body["error"]) == (409, "fenced")

    live(base, scenario)
