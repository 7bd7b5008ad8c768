"""What can go wrong, as a person should read it; each class carries its exit code (sysexits.h)."""

from __future__ import annotations

EX_OK = 0
EX_FAILED = 1
EX_USAGE = 2
EX_REFUSED = 69
EX_TEMPFAIL = 75
EX_CONFIG = 78


class SidecarError(Exception):
    """A failure with a message for people: what failed, what was kept safe, what to do next.

    Commands print ``message`` without a traceback and end with ``exit_code``.
    """

    exit_code = EX_FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(SidecarError):
    """A setting that can't be used; the message names every one of them."""

    exit_code = EX_CONFIG


class UsageError(SidecarError):
    """A command line that can't be read."""

    exit_code = EX_USAGE


class TryLater(SidecarError):
    """Nothing is wrong that time can't mend: a lock is held, a store is away."""

    exit_code = EX_TEMPFAIL


class RestoreFailed(SidecarError):
    """The roots could not be brought to the snapshot; ``final`` when retrying can't help.

    ``code`` is the exit status that a start ends with (69 for a refusal, 75 otherwise, 78 for
    something on this machine that its owner must set right). ``pause_s`` is the least time until the
    next try where main waits all the same.
    """

    exit_code = EX_TEMPFAIL

    def __init__(self, message: str, *, final: bool = False, code: int = EX_TEMPFAIL, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.final = final
        self.pause_s = pause_s
        self.exit_code = code


class ManifestError(SidecarError):
    """A manifest that must not be believed: malformed, hostile, or of an unknown format.

    ``damage`` is false where the bytes may be good and only this version can't read them.
    """

    def __init__(self, message: str, *, damage: bool = True) -> None:
        super().__init__(message)
        self.damage = damage
