"""Every setting there is. Reading, ``sidecar config``, ``docs/settings.md`` and the check for misspelt names
all go by this one table; a setting that is missing here does not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sidecar import readers
from sidecar.masking import mask, mask_path
from sidecar.readers import Reader, duration, integer
from sidecar.storeurl import FORMS

OURS = "SIDECAR_"
RESERVED = "SIDECAR_RECOVERY_"
"""Handed to resume hooks by us; never read as a setting."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable.

    ``field`` is the attribute of ``Settings`` that holds it, ``fallback`` that attribute's value where it is
    unset, ``default`` the same in words. ``read`` is None where reading takes more than the text. ``exact``:
    whitespace around the value belongs to it. ``secret``: the value is never shown; ``show`` makes of any
    other what may be.
    """

    name: str
    field: str
    group: str
    meaning: str
    accepted: str
    default: str
    fallback: Any = None
    read: Reader | None = None
    secret: bool = False
    exact: bool = False
    show: Callable[[str, Iterable[str]], str] = mask


_DURATION = "a duration such as 2s, 5m, 1h30m"
_TOKEN = "the token alone, without whitespace or control characters"

KEEP = "What is kept"
STORE = "Where it is kept"
PLATFORM = "The Hub and the Space"
WEB = "Web"
SYNC = "When a snapshot is taken"
START = "Starting"
WRITER = "Who may write"
STOP = "Stopping"
WATCH = "Proof that it works"
SAFETY = "Encryption and publicity"
LOG = "Log"

# Each row: name, field, group; meaning; accepted; default in words, its value, reader.
# fmt: off
SETTINGS: tuple[Setting, ...] = (
    Setting("SIDECAR_PATHS", "roots", KEEP,
            "the roots: folders or files that are kept; ~ is the home directory, a name defaults to the path "
            "without its leading slash, a path with ':' in it needs the one-a-line form (end the value with "
            "a line break)",
            "[name=]/absolute/path[?layout=auto|bundle|mirror], one a line or separated by ':'",
            "none: required by run, agent, restore, sync, doctor", (), exact=True),
    Setting("SIDECAR_EXCLUDE", "exclude", KEEP,
            "what is left out of every root; replaces the default unless a line says +default; a "
            ".sidecarignore in a root (itself kept) adds to it; a lone # excludes nothing",
            "gitignore-style patterns, one a line",
            " ".join(readers.DEFAULT_EXCLUDE), readers.DEFAULT_EXCLUDE, readers.exclude, exact=True),
    Setting("SIDECAR_STATE_DIR", "state_dir", KEEP,
            "the agent's own small files; excluded from every root",
            "an absolute path (~ is the home directory)",
            "$XDG_STATE_HOME/sidecar, else ~/.local/state/sidecar, else a private folder in the temp dir"),
    Setting("SIDECAR_STORE", "store", STORE,
            "the store that snapshots go to",
            FORMS,
            "hf://datasets/OWNER/NAME-state, named after the Space, where SPACE_ID and a token are set, "
            "else file:// under the state dir, with a loud warning that nothing outlives the machine"),
    Setting("HF_TOKEN", "token", PLATFORM,
            "the Hub's access token, with write access to the dataset",
            _TOKEN,
            "none", None, readers.secret, secret=True, exact=True),
    Setting("SIDECAR_TOKEN_FILE", "token", PLATFORM,
            "a mounted secret: the file that holds the token; goes before HF_TOKEN",
            "the absolute path of a readable file with the token alone (a line break at its end is dropped)",
            "none"),
    Setting("HF_ENDPOINT", "endpoint", PLATFORM,
            "the Hub's address, as huggingface_hub reads it",
            "http://HOST[:PORT] or https://HOST[:PORT]",
            "https://huggingface.co", None, readers.endpoint),
    Setting("SPACE_ID", "space_id", PLATFORM,
            "set in a Space by the platform: which Space this is",
            "OWNER/NAME",
            "none: not in a Space", None, readers.space_id),
    Setting("SPACE_HOST", "space_host", PLATFORM,
            "set in a Space by the platform: its public host name",
            "a host name",
            "none", None, readers.name),
    Setting("SIDECAR_HOST", "host", WEB,
            "the address that the web part listens on",
            "an IP address or a host name, without a port",
            "0.0.0.0", "0.0.0.0", readers.host),
    Setting("SIDECAR_PORT", "port", WEB,
            "the port that the web part listens on",
            "0 to 65535 (0: any free port)",
            "7860 with an upstream, else 7861", None, integer(0, 65535)),
    Setting("SIDECAR_UPSTREAM", "upstream", WEB,
            "the main app's own address; turns the front door on: whatever is not the sidecar's own goes "
            "there",
            "http://HOST[:PORT], for example http://127.0.0.1:7861",
            "off", None, readers.web_url("http", bare=True)),
    Setting("SIDECAR_PREFIX", "prefix", WEB,
            "put in front of /health, /status and so on, where the main app has such paths itself",
            "a path such as /_sidecar",
            "none", "", readers.url_prefix),
    Setting("SIDECAR_API_TOKEN", "api_token", WEB,
            "bearer token for whatever changes something or shows file names",
            _TOKEN,
            "none: those calls answer only locally", None, readers.secret, secret=True, exact=True),
    Setting("SIDECAR_QUIET", "quiet_s", SYNC,
            "sync when nothing changed for this long",
            _DURATION,
            "2s", 2.0, duration()),
    Setting("SIDECAR_MAX_DELAY", "max_delay_s", SYNC,
            "sync at the latest this long after the first change",
            _DURATION,
            "30s", 30.0, duration()),
    Setting("SIDECAR_COMMITS_PER_HOUR", "commits_per_hour", SYNC,
            "pace of automatic snapshots in any sliding hour, a burst of 10 included",
            "a whole number from 1 (over 100 warns: the Hub refuses from about 128)",
            "30", 30, integer(1, 100_000)),
    Setting("SIDECAR_SQUASH_AFTER", "squash_after", SYNC,
            "squash the Hub history past this many commits (it cannot be undone), the newest 10 snapshots stay; a "
            "store that can cut its history (a folder) keeps the newest half of that many",
            "off, or a whole number from 1",
            "off: a warning from 1,500 commits on", None, readers.off_or(integer(1, 1_000_000))),
    Setting("SIDECAR_RESCAN", "rescan_s", SYNC,
            "how often everything is scanned, as a safety net for missed events",
            f"{_DURATION}, at least 100ms",
            "10m", 600.0, duration(0.1)),
    Setting("SIDECAR_RESTORE_TIMEOUT", "restore_timeout_s", START,
            "how long a restore is retried without progress",
            _DURATION,
            "5m", 300.0, duration()),
    Setting("SIDECAR_ON_RESTORE_FAILURE", "on_restore_failure", START,
            "what then: wait (go on trying), exit (with 75), or continue (main runs; what it writes goes to"
            " a branch of its own, never to the main line)",
            "wait, exit or continue",
            "wait in a Space, else exit", None, readers.choice("wait", "exit", "continue")),
    Setting("SIDECAR_REVISION", "revision", START,
            "start from this snapshot instead of the head",
            "a snapshot's id such as 7.113, or a revision of the store",
            "head", None, lambda text: None if text == "head" else readers.name(text)),
    Setting("SIDECAR_COLD_START", "cold_start", START,
            "refuse where an empty store must be a mistake",
            "allow or refuse",
            "allow", "allow", readers.choice("allow", "refuse")),
    Setting("SIDECAR_VERIFY", "verify", START,
            "checks after a restore; a failed one makes health warn, with a leading ! it stops the start",
            "one a line: command: CMD, http: URL, sqlite: PATH, json: PATH, cookies: PATH, jwt: PATH, "
            "hf-token; an optional ! before it",
            "none", (), readers.checks),
    Setting("SIDECAR_RESUME", "resume", START,
            "commands that run once per epoch, after the checks and before main, with SIDECAR_RECOVERY_* variables; a "
            "failed one makes health warn, with a leading ! it stops the start; after-ready: waits until main answers",
            "one a line, for /bin/sh: CMD, command: CMD or after-ready: CMD; an optional ! before the first two",
            "none", (), readers.commands),
    Setting("SIDECAR_IDENTITY", "identity", WRITER,
            "who this is where there is no SPACE_ID",
            "a name without spaces",
            "local", None, readers.name),
    Setting("SIDECAR_ADOPT", "adopt", WRITER,
            "the old identity whose lease may be taken over",
            "an identity: OWNER/NAME of a Space, or a SIDECAR_IDENTITY",
            "none", None, readers.name),
    Setting("SIDECAR_HANDOFF_WAIT", "handoff_wait_s", WRITER,
            "how long a silent previous holder is waited for, after the download; under 15s warns that a "
            "live one may be taken for dead (it is fenced, not corrupted)",
            f"{_DURATION}; any from 0",
            "30s", 30.0, duration()),
    Setting("SIDECAR_STOP_TIMEOUT", "stop_timeout_s", STOP,
            "from SIGTERM to main's SIGKILL",
            _DURATION,
            "6s", 6.0, duration()),
    Setting("SIDECAR_SHUTDOWN_GRACE", "shutdown_grace_s", STOP,
            "from SIGTERM to the end of the last sync",
            _DURATION,
            "25s", 25.0, duration()),
    Setting("SIDECAR_DRILL", "drill_s", WATCH,
            "how often a restore drill runs",
            f"off, or {_DURATION} (at least 1s)",
            "off", None, readers.off_or(duration(1.0))),
    Setting("SIDECAR_KEEPALIVE_EVERY", "keepalive_every_s", WATCH,
            "how often a ping from outside is expected",
            f"{_DURATION}, at least 1s",
            "off until the first ping, then 45m", None, duration(1.0)),
    Setting("SIDECAR_HEARTBEAT_URL", "heartbeat_url", WATCH,
            "where recovery records and heartbeats are posted as JSON: about every 15 minutes while all roots are "
            "durable; shown without its path, which is often a secret",
            "an http:// or https:// URL; one at hc-ping.com, or whose path starts with /ping/, gets /start and /fail "
            "behind it as healthchecks.io wants it, any other is a plain webhook",
            "off", None, readers.web_url("http", "https"), show=mask_path),
    Setting("SIDECAR_AGE_RECIPIENT", "age_recipient", SAFETY,
            "client-side encryption in the age format: who can read the snapshots",
            "an age recipient (age1…) whose identity stands in SIDECAR_AGE_IDENTITY",
            "off", None, str),
    Setting("SIDECAR_AGE_IDENTITY", "age_identity", SAFETY,
            "the secret key that belongs to the recipient",
            "an age identity (AGE-SECRET-KEY-1…)",
            "none", None, str, secret=True),
    Setting("SIDECAR_PUBLIC", "public", SAFETY,
            "allow lets plain snapshots go to a public dataset; otherwise a public store without encryption"
            " is refused",
            "allow or refuse",
            "refuse", False, readers.flag("allow", "refuse")),
    Setting("SIDECAR_LOG", "log", LOG,
            "how log lines are written: for people (a Space's log tab) or for programs",
            "text or json",
            "text", "text", readers.choice("text", "json")),
    Setting("SIDECAR_LOG_LEVEL", "log_level", LOG,
            "from which level on",
            "debug, info, warning or error",
            "info", "info", readers.choice("debug", "info", "warning", "error")),
)
# fmt: on
