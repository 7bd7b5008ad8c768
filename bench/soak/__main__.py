"""`make soak SCALE=1`: every part of the campaign, and its figures as the last lines.

At scale 1 it makes 1,300 kills, searches lives of containers that meet for ten minutes, lets real ones overlap, tries
each fault on each kind of request, fuzzes for ten minutes and lives for half an hour; `ARGS=kills` is that part alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time

from bench.soak import fuzz, kills, longrun, matrix, overlap

PARTS = ("kills", "overlap", "matrix", "fuzz", "long")


def main() -> int:
    """1 where anything was lost, or went otherwise than it must."""
    parser = argparse.ArgumentParser("soak", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*PARTS, []], help="which parts to run (all)")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    chosen, began = given.only or PARTS, time.monotonic()
    print(
        f"scale {given.scale:g}, seed {given.seed}; {os.cpu_count()} cores, Python {platform.python_version()}",
        flush=True,
    )
    good, figures = True, dict.fromkeys(("kills", "faults", "acknowledged", "lost", "fenced"), 0)
    if "kills" in chosen:
        for found in kills.run(given.scale, given.seed).values():
            good &= found.good
            figures["kills"] += found.kills.total()
            figures["acknowledged"] += found.acknowledged
            figures["lost"] += len(found.wrong)
            figures["fenced"] += found.fenced
    if "overlap" in chosen:
        met = overlap.run(given.scale)
        good &= met.good
        figures["fenced"] += met.overlaps + met.frozen
    if "matrix" in chosen:
        tried = matrix.run(given.scale, given.seed)
        good &= tried.good
        figures["faults"] += tried.met
    if "fuzz" in chosen:
        good &= fuzz.run(given.scale).good
    if "long" in chosen:
        lived = longrun.run(given.scale, given.seed)
        good &= lived.good
        figures["faults"] += lived.faults
    print("good" if good else "NOT GOOD: see above")
    for name, value in figures.items():
        print(f"{name} {value}")
    print(f"seconds {time.monotonic() - began:.0f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
