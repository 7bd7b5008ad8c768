"""One pass over the environment: values, where they came from, and everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar import readers
from sidecar.masking import HIDDEN, mask, shown
from sidecar.roots import check_roots, contains, parse_roots
from sidecar.settings_table import OURS, RESERVED, SETTINGS, Setting
from sidecar.statedir import choose_state_dir
from sidecar.storeurl import StoreSpec, embedded_store, parse_store, space_store
from sidecar.units import format_duration

_BY_NAME = {setting.name: setting for setting in SETTINGS}


class Reading:
    """One pass over an environment: what was found so far, and everything that is wrong."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.values: dict[str, Any] = {s.field: s.fallback for s in SETTINGS}
        self.derived: dict[str, tuple[str, str]] = {}  # name -> (value as shown, source)
        self.problems: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.secrets = [text for s in SETTINGS if s.secret and (text := self.text(s.name))]

    def text(self, name: str) -> str:
        """The variable's text, "" where it is unset."""
        raw = self.environ.get(name, "")
        setting = _BY_NAME[name]
        # A token of blanks alone is a copying mistake to be told of; any other blank value is an empty one.
        return raw if setting.exact and (setting.secret or raw.strip()) else raw.strip()

    def take(self, setting: Setting) -> None:
        text = self.text(setting.name)
        if not text or setting.read is None:
            return
        try:
            self.values[setting.field] = setting.read(text)
        except readers.Unreadable as error:
            for detail in error.details:
                self.wrong(setting.name, f"{setting.name}: {detail}; accepted: {setting.accepted}")
        except ValueError as error:
            self.unreadable(setting.name, str(error))

    def unreadable(self, name: str, detail: str = "") -> None:
        setting = _BY_NAME[name]
        if setting.secret:
            line = f"{name} {detail} (its value is not shown); accepted: {setting.accepted}"
        else:
            held = shown(setting.show(self.text(name), self.secrets))
            line = f"{name} held {held}{': ' if detail else ''}{detail}; accepted: {setting.accepted}"
        self.wrong(name, line)

    def derive(self, name: str, value: str, source: str) -> None:
        """Note what an unset variable comes down to, for ``sidecar config``."""
        if not self.text(name):
            self.derived[name] = (value, source)

    def wrong(self, name: str, line: str) -> None:
        self.problems.append((name, line))

    def lines(self, name: str | None = None) -> list[str]:
        """The problems (of one variable), in the table's order, unknown variables last."""
        order = {known: place for place, known in enumerate(_BY_NAME)}
        found = sorted(self.problems, key=lambda problem: order.get(problem[0], len(order)))
        return [mask(line, self.secrets) for owner, line in found if name in (None, owner)]

    def shown_value(self, setting: Setting) -> tuple[str | None, str]:
        if setting.name in self.derived:
            return self.derived[setting.name]
        text = self.text(setting.name)
        if text:
            return HIDDEN if setting.secret else setting.show(text, self.secrets), "environment"
        if isinstance(setting.fallback, tuple):
            return "\n".join(setting.fallback) or None, "default"
        return None if setting.fallback in (None, "") else setting.default, "default"


def read(environ: Mapping[str, str], need_paths: bool, need_store: bool, reject_unknown: bool) -> Reading:
    """Everything that ``environ`` says, and what is wrong with it; see ``settings.load``."""
    reading = Reading(environ)
    for setting in SETTINGS:
        reading.take(setting)
    _read_token_file(reading)
    _read_state_dir(reading)
    _read_store(reading, need_store)
    _read_roots(reading, need_paths)
    _fill_in(reading)
    _read_client(reading)
    _compare(reading)
    if reject_unknown:
        for name, nearest in unknown(environ).items():
            hint = f"did you mean {nearest}?" if nearest else "`sidecar config` lists those that there are"
            reading.wrong(name, f"{name} is no setting; {hint}")
    return reading


def _read_token_file(reading: Reading) -> None:
    given = reading.text("SIDECAR_TOKEN_FILE")
    if not given:
        return
    try:
        token = readers.token_file(readers.folder(given, reading.environ.get("HOME")))
    except ValueError as error:
        reading.unreadable("SIDECAR_TOKEN_FILE", str(error))
        return
    if reading.values["token"] not in (None, token):
        reading.warnings.append("HF_TOKEN and SIDECAR_TOKEN_FILE hold different tokens; the file's is used")
    reading.values["token"] = token
    reading.secrets.append(token)
    reading.derived["HF_TOKEN"] = (HIDDEN, "SIDECAR_TOKEN_FILE")


def _read_state_dir(reading: Reading) -> None:
    given = reading.text("SIDECAR_STATE_DIR")
    if given:
        try:
            reading.values["state_dir"] = readers.folder(given, reading.environ.get("HOME"))
            return
        except ValueError as error:
            reading.unreadable("SIDECAR_STATE_DIR", str(error))
    path, source = choose_state_dir(reading.environ)
    reading.values["state_dir"] = path
    reading.derive("SIDECAR_STATE_DIR", path, source)


def _read_store(reading: Reading, need_store: bool) -> None:
    given, values = reading.text("SIDECAR_STORE"), reading.values
    values["store"] = embedded_store(values["state_dir"])
    if given:
        try:
            values["store"] = parse_store(given)
        except ValueError as error:
            if need_store:
                reading.unreadable("SIDECAR_STORE", str(error))
            else:
                reading.warnings.append(f"SIDECAR_STORE can't be read and is not used here: {error}")
        return
    source = "default"
    if values["space_id"] and values["token"]:
        values["store"], source = space_store(values["space_id"]), "SPACE_ID"
    reading.derive("SIDECAR_STORE", values["store"].url, source)


def _read_roots(reading: Reading, need_paths: bool) -> None:
    text = reading.text("SIDECAR_PATHS")
    if not text:
        if need_paths:
            reading.wrong(
                "SIDECAR_PATHS",
                "SIDECAR_PATHS is not set: name the folders to keep, for example SIDECAR_PATHS=/data; "
                f"accepted: {_BY_NAME['SIDECAR_PATHS'].accepted}",
            )
        return
    parsed = parse_roots(text, reading.environ.get("HOME"))
    for detail in parsed.problems:
        line = f"SIDECAR_PATHS: {detail}; accepted: {_BY_NAME['SIDECAR_PATHS'].accepted}"
        reading.wrong("SIDECAR_PATHS", line)
    store: StoreSpec = reading.values["store"]
    checked = check_roots(parsed.roots, reading.values["state_dir"], store.path if store.persistent else None)
    for detail in checked.problems:
        reading.wrong("SIDECAR_PATHS", f"SIDECAR_PATHS: {detail}")
    reading.warnings += [*parsed.warnings, *checked.warnings]
    reading.values["roots"] = parsed.roots
    token_file = reading.text("SIDECAR_TOKEN_FILE")
    for root in parsed.roots:
        if token_file and contains(root.path, token_file):
            reading.warnings.append(
                f"SIDECAR_TOKEN_FILE lies in the root {root.path!r}: the token is kept in the store with it; "
                "move the file, or exclude it"
            )


def _fill_in(reading: Reading) -> None:
    """The defaults that hang on other settings."""
    values, space = reading.values, reading.values["space_id"]
    if values["port"] is None:
        front_door = bool(reading.text("SIDECAR_UPSTREAM"))
        values["port"] = 7860 if front_door else 7861
        reading.derive("SIDECAR_PORT", str(values["port"]), "SIDECAR_UPSTREAM" if front_door else "default")
    if values["on_restore_failure"] is None:
        choice = "wait" if space else "exit"
        values["on_restore_failure"] = choice
        reading.derive("SIDECAR_ON_RESTORE_FAILURE", choice, "SPACE_ID" if space else "default")
    if space:
        if values["identity"] not in (None, space):
            reading.warnings.append(f"SIDECAR_IDENTITY is not used: SPACE_ID says that this is {space}")
        values["identity"] = space
        reading.derived["SIDECAR_IDENTITY"] = (space, "SPACE_ID")
    elif values["identity"] is None:
        values["identity"] = "local"
        reading.derive("SIDECAR_IDENTITY", "local", "default")


def _read_client(reading: Reading) -> None:
    """What huggingface_hub itself reads at its import, and dies of: said before anything depends on it."""
    if reading.values["store"].kind not in ("hf", "bucket"):
        return
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        held = reading.environ.get(name)
        try:
            int("0" if held is None else held)
        except ValueError:
            reading.wrong(
                name, f"{name} held {held!r}: huggingface_hub can't read it; accepted: whole seconds, for example 10"
            )


def _compare(reading: Reading) -> None:
    """What no setting shows by itself."""
    values, warn = reading.values, reading.warnings.append
    port_known = not reading.lines("SIDECAR_PORT")
    if values["upstream"] and port_known and _is_ourselves(values["upstream"], values["host"], values["port"]):
        reading.unreadable(
            "SIDECAR_UPSTREAM",
            f"the sidecar itself listens on port {values['port']}; let main listen on another, or set SIDECAR_PORT",
        )
    if values["age_recipient"] and not reading.text("SIDECAR_AGE_IDENTITY"):
        reading.wrong(
            "SIDECAR_AGE_IDENTITY",
            "SIDECAR_AGE_IDENTITY is not set, but SIDECAR_AGE_RECIPIENT is: without the identity nothing "
            "could be restored; set the identity that belongs to the recipient",
        )
    if values["handoff_wait_s"] < 15:
        warn(
            f"SIDECAR_HANDOFF_WAIT is {format_duration(values['handoff_wait_s'])}: under 15s a live holder "
            "may be taken for dead (it is fenced, not corrupted)"
        )
    if values["commits_per_hour"] > 100:
        warn(
            f"SIDECAR_COMMITS_PER_HOUR is {values['commits_per_hour']}: from about 128 commits an hour "
            "on the Hub refuses them for a while, checkpoints included"
        )
    quiet, delay = values["quiet_s"], values["max_delay_s"]
    if quiet > delay:
        warn(
            f"SIDECAR_QUIET ({format_duration(quiet)}) is longer than SIDECAR_MAX_DELAY "
            f"({format_duration(delay)}): a sync then comes that long after the first change"
        )
    stop, grace = values["stop_timeout_s"], values["shutdown_grace_s"]
    if stop >= grace:
        warn(
            f"SIDECAR_STOP_TIMEOUT ({format_duration(stop)}) leaves nothing of SIDECAR_SHUTDOWN_GRACE "
            f"({format_duration(grace)}) for the last sync if main needs all of it"
        )


def _is_ourselves(upstream: str, host: str, port: int) -> bool:
    from urllib.parse import urlsplit

    url = urlsplit(upstream)
    ours = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", host}
    return (url.port or 80) == port and url.hostname in ours


def unknown(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Variables that look like ours and are none, with the nearest that is."""
    names = sorted(
        name
        for name, value in environ.items()
        if name.startswith(OURS) and name not in _BY_NAME and not name.startswith(RESERVED) and value.strip()
    )
    if not names:
        return {}
    import difflib

    # The part behind SIDECAR_ is compared: with it, any two names would look alike.
    known = {name.removeprefix(OURS): name for name in _BY_NAME}
    nearest = {name: difflib.get_close_matches(name.removeprefix(OURS), known, 1) for name in names}
    return {name: known[close[0]] if close else None for name, close in nearest.items()}
