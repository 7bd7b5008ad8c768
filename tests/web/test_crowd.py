from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sidecar.web.crowd import Crowd

REPO = Path(__file__).parents[2]


@dataclass(eq=False)
class Guest:
    crowd: Crowd
    stuck: bool = False
    gone: bool = field(default=False)

    def turn_away(self) -> None:
        assert not self.gone
        self.gone = True


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["comes", "works", "rests", "leaves", "stuck"]),
                                             st.integers(0, 20)), max_size=80))  # fmt: skip
def test_whatever_they_do_nobody_at_work_is_turned_away_and_idle_ones_never_fill_it(most, deeds):
    turned: list[None] = []
    crowd = Crowd(most, lambda: turned.append(None))
    there: list[Guest] = []
    busy: set[Guest] = set()
    for deed, n in deeds:
        if deed == "comes":
            guest = Guest(crowd)
            crowd.comes(guest)
            there.append(guest)
            assert not guest.gone, "a newcomer is never the one who goes"
        elif there:
            guest = there[n % len(there)]
            if deed == "works":
                crowd.works(guest)
                busy.add(guest)
            elif deed == "rests":
                crowd.rests(guest)
                busy.discard(guest)
                guest.stuck = False
            elif deed == "stuck":
                guest.stuck = guest in busy
            else:
                crowd.leaves(guest)
                busy.discard(guest)
                guest.gone = True
        assert not any(guest.gone for guest in busy if guest in there and not guest.stuck)
        there = [guest for guest in there if not guest.gone]
        busy &= set(there)
        assert len(crowd) == len(there)
        if deed == "comes":
            assert len(there) <= max(most, len(busy) + 1)


def test_the_limit_of_open_files_bounds_it_and_is_raised_where_that_is_allowed():
    script = """
import resource, sys
from sidecar.web.crowd import places
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(places(2048, 2), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""

    def tried(soft: int, hard: int) -> list[int]:
        argv = [sys.executable, "-c", script, str(soft), str(hard)]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=REPO, timeout=20, check=True)
        return [int(word) for word in done.stdout.split()]

    assert tried(1024, 4096 + 256) == [2048, 4096 + 256]
    assert tried(1024, 1024) == [384, 1024]
    assert tried(100, 200) == [16, 200]
