"""Imports go one way (design, section 10), wherever in a module they stand, types included.

A failing test here is a question about the design: either the import is wrong, or the module lies in the
wrong room. A new top-level module has to be given its layer below.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sidecar"

# A module may import from its own layer and from those that stand below it.
LAYERS: list[tuple[str, frozenset[str]]] = [
    ("cli", frozenset({"__main__", "cli", "client", "commands", "demo"})),
    (
        "agent",
        frozenset(
            {
                "agent",
                "company",
                "drills",
                "heartbeat",
                "inspection",
                "life",
                "link",
                "once",
                "pings",
                "posting",
                "recording",
                "resuming",
                "serving",
                "session",
                "syncing",
                "tending",
                "unsupervised",
                "verbs",
            }
        ),
    ),
    ("rooms", frozenset({"web", "recovery", "sync", "fleet"})),
    ("snapshot", frozenset({"snapshot"})),
    ("stores", frozenset({"stores"})),
    ("settings", frozenset({"settings", "readers", "roots", "masking", "statedir", "storeurl", "units"})),
    ("bottom", frozenset({"__init__", "errors", "heap", "log", "measures", "records", "state"})),
]
RANK = {member: rank for rank, (_, members) in enumerate(reversed(LAYERS)) for member in members}

THIRD_PARTY = {
    "h11": "h11",
    "huggingface_hub": "huggingface_hub",
    "orjson": "orjson",
    "pathspec": "pathspec",
    "prometheus_client": "prometheus-client",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "watchdog": "watchdog",
    "yaml": "PyYAML",
    "zstandard": "zstandard",
    # These come with what is named: the client's own errors and transport, and starlette's event loop layer.
    "hf_xet": "huggingface_hub",
    "httpx": "huggingface_hub",
    "httpx2": "huggingface_hub",
    "anyio": "starlette",
}

TOO_HEAVY_FOR_PID_1 = frozenset({"argparse", "logging", "subprocess", "pathlib", "dataclasses", "typing", "asyncio"})


@dataclass(frozen=True, slots=True)
class Import:
    """``module`` (dotted, below `sidecar.`) imports ``target``: dotted as written, `sidecar.…` or foreign."""

    module: str
    target: str
    name: str
    line: int

    @property
    def where(self) -> str:
        return f"sidecar/{self.module.replace('.', '/')}.py:{self.line}"

    @property
    def own(self) -> bool:
        return self.target == "sidecar" or self.target.startswith("sidecar.")

    @property
    def inner(self) -> str:
        """The target below `sidecar.`; the package itself is its `__init__`."""
        return self.target.removeprefix("sidecar").lstrip(".") or "__init__"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports_of(path: Path) -> list[Import]:
    module = module_name(path)
    package = ["sidecar", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [Import(module, alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{source}.{alias.name}"
                target = inside if source.startswith("sidecar") and is_module(inside) else source
                found.append(Import(module, target, alias.name, node.lineno))
    return found


@cache
def imports() -> list[Import]:
    return [each for path in sorted(PACKAGE.rglob("*.py")) for each in imports_of(path)]


def room(module: str) -> str:
    """The folder or top-level module; the settings' own parts, `settings_…`, count as settings."""
    first = module.partition(".")[0]
    return "settings" if first.startswith("settings_") else first


@cache
def supervisor_and_helpers() -> frozenset[str]:
    """PID 1 and what it imports of the package: outside the layers, since none of that may reach into one."""
    found, todo = set[str](), {"supervisor"}
    while todo:
        module = todo.pop()
        found.add(module)
        todo |= {each.inner for each in imports() if each.own and each.module == module} - found
    return frozenset(found - {"__init__"})


def test_reads_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sidecar"
    (package / "sync").mkdir(parents=True)
    for name in ("errors.py", "sync/__init__.py", "sync/pace.py"):
        (package / name).touch()
    engine = package / "sync" / "engine.py"
    engine.write_text(
        "from __future__ import annotations\n"
        "import os.path\n"
        "from sidecar import errors\n"
        "from . import pace\n"
        "from .pace import Budget\n"
        "from ..errors import SidecarError\n"
        "def later():\n"
        "    from sidecar.sync.pace import Budget\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    assert [each.target for each in sorted(imports_of(engine), key=lambda each: each.line)] == [
        "__future__",
        "os.path",
        "sidecar.errors",
        "sidecar.sync.pace",
        "sidecar.sync.pace",
        "sidecar.errors",
        "sidecar.sync.pace",
    ]


def test_every_module_has_a_layer() -> None:
    modules = {room(module_name(path)) for path in PACKAGE.rglob("*.py")}
    assert modules, "no module found: is the package where this test looks for it?"
    assert modules - RANK.keys() - supervisor_and_helpers() == set()


def test_imports_go_down_only() -> None:
    upward = [
        f"{each.where} imports {each.target}"
        for each in imports()
        if each.own
        and room(each.module) in RANK
        and room(each.inner) in RANK
        and RANK[room(each.inner)] > RANK[room(each.module)]
    ]
    assert upward == []


def test_rooms_do_not_know_each_other() -> None:
    rooms = dict(LAYERS)["rooms"]
    across = [
        f"{each.where} imports {each.target}"
        for each in imports()
        if each.own and {room(each.module), room(each.inner)} <= rooms and room(each.module) != room(each.inner)
    ]
    assert across == []


def test_modules_form_no_circle() -> None:
    edges: dict[str, set[str]] = {}
    for each in imports():
        if each.own and each.inner != each.module and room(each.module) != "__init__":
            edges.setdefault(each.module, set()).add(each.inner)

    done: set[str] = set()

    def circle(module: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if module in above:
            return (*above[above.index(module) :], module)
        if module in done:
            return ()
        for target in sorted(edges.get(module, ())):
            if found := circle(target, (*above, module)):
                return found
        done.add(module)
        return ()

    assert [found for module in sorted(edges) if (found := circle(module, ()))] == []


def test_snapshot_names_no_store() -> None:
    named = [
        f"{each.where} imports {each.target}"
        for each in imports()
        if room(each.module) == "snapshot" and room(each.inner) == "stores" and each.inner != "stores.base"
    ]
    assert named == []


def test_stores_know_no_root() -> None:
    known = [
        f"{each.where} imports {each.name} from {each.target}"
        for each in imports()
        if room(each.module) == "stores"
        and each.own
        and (room(each.inner) == "roots" or each.name in {"Root", "Roots"})
    ]
    assert known == []


def test_web_only_reads_state() -> None:
    seen = [
        f"{each.where} imports {each.target}"
        for each in imports()
        if room(each.module) == "web" and each.own and room(each.inner) in {"stores", "snapshot", "sync", "recovery"}
    ]
    assert seen == []


def test_supervisor_imports_its_helpers_and_the_standard_library_only() -> None:
    helpers = supervisor_and_helpers()
    assert is_module("sidecar.supervisor")
    assert {room(each) for each in helpers} & RANK.keys() == set()
    foreign = [
        f"{each.where} imports {each.target}"
        for each in imports()
        if each.module in helpers and not each.own and room(each.target) not in sys.stdlib_module_names
    ]
    assert foreign == []


def test_supervisor_stays_small_when_it_runs() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import sidecar.supervisor; print(*sys.modules)"
    # Isolated and without site, so that only what the supervisor asks for is loaded.
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    loaded = set(run.stdout.split())
    assert loaded & TOO_HEAVY_FOR_PID_1 == set()
    ours = {each.removeprefix("sidecar.") for each in loaded if each.startswith("sidecar.")}
    assert ours <= supervisor_and_helpers()


def test_third_party_imports_are_declared() -> None:
    undeclared = [
        f"{each.where} imports {each.target}"
        for each in imports()
        if not each.own and room(each.target) not in sys.stdlib_module_names and room(each.target) not in THIRD_PARTY
    ]
    assert undeclared == []
