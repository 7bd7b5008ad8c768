"""`make soak SCALE=1`: every part of the campaign, and its figures as the last lines."""

from __future__ import annotations

import argparse
import random
import sys
import time

from bench.soak import fuzz, kills

PARTS = ("kills", "fuzz")


def main() -> int:
    """1 where anything was lost, or went otherwise than it must."""
    parser = argparse.ArgumentParser("soak", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*PARTS, []], help="which parts to run (all)")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    chosen, began = given.only or PARTS, time.monotonic()
    print(f"scale {given.scale:g}, seed {given.seed}", flush=True)
    good = True
    if "kills" in chosen:
        for found in kills.run(given.scale, given.seed).values():
            good &= found.good
    if "fuzz" in chosen:
        good &= fuzz.run(given.scale).good
    print(f"seconds {time.monotonic() - began:.0f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
