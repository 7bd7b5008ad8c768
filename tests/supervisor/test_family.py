"""Who descends from main."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from sidecar.family import Proc, everyone, left_of_main, look_up, read_stat

ME, MAIN, AGENT = 10, 20, 30


def test_stat_with_an_awkward_name() -> None:
    line = b"42 (a) b (c)) S 7 8 9 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 2 3\n"
    proc = read_stat(line)
    assert (proc.pid, proc.parent, proc.group, proc.session, proc.since) == (42, 7, 8, 9, 12345)
    assert proc.name == "a) b (c)"
    assert proc.alive
    assert not read_stat(line.replace(b" S ", b" Z ")).alive
    assert read_stat(line.replace(b" S ", b" Z ").replace(b"20 0 1 0", b"20 0 3 0")).alive, "threads go on"


def test_ourselves() -> None:
    me = look_up(os.getpid())
    assert me is not None
    assert (me.parent, me.group, me.session) == (os.getppid(), os.getpgrp(), os.getsid(0))
    assert any(proc.pid == os.getpid() and proc.since == me.since for proc in everyone())
    assert look_up(2**22 + 1) is None


def test_left_of_main() -> None:
    def proc(pid: int, parent: int, group: int = 1, session: int = 1, since: int = 100, alive: bool = True) -> Proc:
        return Proc(pid, parent, group, session, since, alive)

    procs = [
        proc(ME, 1, since=50),
        proc(MAIN, ME, group=MAIN),
        proc(21, MAIN),
        proc(22, 21, session=22),
        proc(23, MAIN, alive=False),
        proc(24, 23),
        proc(25, ME, session=25),  # a daemon of main's, adopted
        proc(26, 1, group=MAIN),  # an orphan where we can't adopt
        proc(AGENT, ME, session=AGENT),
        proc(31, AGENT, session=AGENT),
        proc(32, ME, session=AGENT),  # the agent's orphan
        proc(33, 31, session=33),
        proc(40, ME, since=99),  # older than main
        proc(41, 40),
        proc(50, 1),
    ]
    assert sorted(p.pid for p in left_of_main(procs, ME, MAIN, 100, AGENT)) == [MAIN, 21, 22, 24, 25, 26]
    assert 40 in {p.pid for p in left_of_main(procs, ME, MAIN, 0, AGENT)}


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)), max_size=40))
def test_any_table_ends_and_never_names_us_or_the_agent(rows: list[tuple[int, int, int]]) -> None:
    procs = [Proc(pid, parent, 1, session, 100) for pid, parent, session in rows]  # cycles included
    for proc in left_of_main(procs, ME, MAIN, 100, AGENT):
        assert proc.pid != ME
        assert proc.session != AGENT
