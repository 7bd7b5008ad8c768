"""``sidecar …`` and ``python -m sidecar …``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command of ``sys.argv``; its exit code. ``run`` stays clear of everything it doesn't need."""
    if sys.argv[1:2] == ["run"]:
        from sidecar.supervisor import run

        return run(sys.argv[2:])
    if sys.argv[1:2] == ["agent"]:
        from sidecar.agent import main as agent

        return agent(sys.argv[2:])
    from sidecar.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
