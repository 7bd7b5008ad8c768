"""What the pages say exists: links resolve, commands that are shown can be typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)


def links(text: str) -> list[str]:
    """Targets of the links of a Markdown page, without those that stand in code."""
    prose = CODE.sub("", FENCE.sub("", text))
    return [first or second for first, second in LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def broken(page: Path, text: str) -> list[str]:
    wrong = []
    for link in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT)
        if not inside or not target.exists():
            wrong.append(f"{link}: no such file here")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            wrong.append(f"{link}: no such heading")
    return wrong


def test_a_broken_link_would_be_found() -> None:
    text = "# A `b` heading\n[gone](nowhere.md) [outside](../../etc) [top](#nothing)\n`[code](x)`\n[l]: also-gone.md\n"
    assert [each.partition(":")[0] for each in broken(ROOT / "README.md", text)] == [
        "nowhere.md",
        "../../etc",
        "#nothing",
        "also-gone.md",
    ]
    assert anchors(text) == {"a-b-heading"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def make_targets() -> set[str]:
    """Whatever can be made, as make itself reads the Makefile."""
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(phony[1].split()) == set(rules)
    return set(rules)


def test_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    assert {line.split()[1] for line in shown.splitlines()} == make_targets()
    assert all(len(line.split()) > 2 for line in shown.splitlines())


def test_the_targets_that_are_promised_are_there() -> None:
    assert {"demo", "test", "check", "test-real", "bench", "soak"} <= make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_on_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join([*(m[0] for m in FENCE.finditer(text)), *CODE.findall(FENCE.sub("", text))])
    typed = set(re.findall(r"(?:^|[`$ ])make ([a-z][a-z-]*)", code, re.MULTILINE))
    assert typed - make_targets() == set()


def test_the_dockerfile_snippet_uses_real_settings() -> None:
    from sidecar.settings_table import SETTINGS

    text = (ROOT / "Dockerfile.snippet").read_text()
    used = set(re.findall(r"\bSIDECAR_[A-Z_]+", text))
    assert "SIDECAR_PATHS" in used
    assert used - {setting.name for setting in SETTINGS} == set()


def test_the_dockerfile_snippet_agrees_with_the_entrypoint() -> None:
    text = (ROOT / "Dockerfile.snippet").read_text()
    assert 'ENTRYPOINT ["/entrypoint.sh"]' in text
    assert "python3 -m venv /opt/sidecar " in text
    assert "/opt/sidecar/bin/sidecar" in (ROOT / "entrypoint.sh").read_text()
    assert re.search(r"chown 1000(:1000)? /data[^/]*USER 1000", text)
