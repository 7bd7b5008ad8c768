"""The settings, read from the environment in one pass that reports everything wrong with them at once.

``python -m sidecar.settings`` prints ``docs/settings.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar.errors import ConfigError
from sidecar.masking import HIDDEN, mask
from sidecar.roots import Root
from sidecar.settings_reading import read, unknown
from sidecar.settings_table import SETTINGS
from sidecar.statedir import ensure_state_dir
from sidecar.storeurl import StoreSpec

__all__ = ["Root", "Row", "Settings", "StoreSpec", "ensure_state_dir", "explain", "load"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its final value. Fields in ``_s`` are seconds; None means off or unset.

    ``public`` is True where plain snapshots may go to a public dataset. ``warnings`` are lines for the log.
    """

    roots: tuple[Root, ...]
    store: StoreSpec
    exclude: tuple[str, ...]
    state_dir: str
    token: str | None = field(repr=False)
    endpoint: str | None = field(repr=False)
    space_id: str | None
    space_host: str | None
    host: str
    port: int
    upstream: str | None
    prefix: str
    api_token: str | None = field(repr=False)
    quiet_s: float
    max_delay_s: float
    commits_per_hour: int
    squash_after: int | None
    rescan_s: float
    restore_timeout_s: float
    on_restore_failure: Literal["wait", "exit", "continue"]
    revision: str | None
    cold_start: Literal["allow", "refuse"]
    identity: str
    adopt: str | None
    handoff_wait_s: float
    stop_timeout_s: float
    shutdown_grace_s: float
    drill_s: float | None
    keepalive_every_s: float | None
    verify: tuple[str, ...] = field(repr=False)
    resume: tuple[str, ...] = field(repr=False)
    heartbeat_url: str | None = field(repr=False)
    age_recipient: str | None
    age_identity: str | None = field(repr=False)
    public: bool
    log: Literal["text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``sidecar config``: strings only, secrets masked; ``value`` None where nothing is set."""

    name: str
    group: str
    value: str | None
    source: str
    meaning: str
    accepted: str
    default: str
    error: str | None


def load(
    environ: Mapping[str, str], *, need_paths: bool, need_store: bool = True, reject_unknown: bool = True
) -> Settings:
    """The settings in ``environ``; touches no file but the token's.

    Without ``need_store`` a store URL that can't be read is only a warning, and the embedded store stands in.
    Raises ``ConfigError`` (exit 78) with one line for everything that is wrong.
    """
    reading = read(environ, need_paths, need_store, reject_unknown)
    problems = reading.lines()
    if problems:
        raise ConfigError("\n".join(problems))
    warnings = tuple(mask(line, reading.secrets) for line in reading.warnings)
    return Settings(**reading.values, warnings=warnings)


def unsupported(settings: Settings) -> Iterator[str]:
    """What is set and understood, and that this version can't do: nobody may take it for done."""
    store = settings.store
    if store.kind not in ("hf", "folder"):
        yield (
            f"SIDECAR_STORE={store.url}: {store.kind} stores are not in this version. "
            "Use hf://datasets/OWNER/NAME or file:///dir"
        )
    if settings.age_recipient or settings.age_identity:
        yield "SIDECAR_AGE_RECIPIENT: encryption is not in this version. Unset it, or update space-sidecar"


def explain(environ: Mapping[str, str]) -> list[Row]:
    """Every setting and every unknown ``SIDECAR_…`` variable, with its value, source, meaning and error."""
    reading = read(environ, need_paths=False, need_store=True, reject_unknown=True)
    rows = []
    for setting in SETTINGS:
        value, source = reading.shown_value(setting)
        errors = "\n".join(reading.lines(setting.name)) or None
        rows.append(
            Row(
                setting.name,
                setting.group,
                value,
                source,
                setting.meaning,
                setting.accepted,
                setting.default,
                errors,
            )
        )
    for name in unknown(environ):
        errors = "\n".join(reading.lines(name))
        rows.append(Row(name, "Unknown", HIDDEN, "environment", "no such setting", "", "", errors))
    return rows


if __name__ == "__main__":
    from sidecar.settings_doc import markdown

    print(markdown(), end="")
