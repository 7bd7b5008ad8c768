"""Journey: one Space whose image is updated again and again, each container a new disk with what that image ships."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.space import Space, living


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    with living(Space(tmp_path / "space", f"file://{tmp_path}/store", SIDECAR_HANDOFF_WAIT="0s")) as made:
        yield made


def container(space: Space, shipped: dict[str, str], *app: str, **extra: str) -> None:
    """A new container of an image that ``shipped`` so; ``app`` is done by main, and all of it is durable then."""
    space.lose_disk()
    for name, content in shipped.items():
        path = space.disk / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    space.start(
        "sh", "-c", f"cd {space.disk}/data; {'; '.join(app) or ':'}; touch {space.home}/did; exec sleep 1000", **extra
    )
    space.running()
    space.wait(lambda s: (space.home / "did").exists())
    (space.home / "did").unlink()
    space.checkpoint()


def read(space: Space, name: str) -> str | None:
    path = space.disk / "data" / name
    return path.read_text() if path.exists() else None


def test_three_images_in_a_row(space: Space) -> None:
    """A default that the app left alone follows the image, its edits and deletions stay, over real containers."""
    v1 = {"default": "A", "edited": "A", "welcome": "hello", "early": "e", "other": "O"}
    container(space, v1, "echo mine >own", "echo edited >edited", "rm early")
    first = space.get()["sync"]["snapshot"]
    assert space.end(signal.SIGTERM) == 143
    container(space, v1, "rm welcome")
    assert (read(space, "edited"), read(space, "early"), read(space, "default")) == ("edited\n", None, "A"), (
        space.said()
    )
    space.kill()
    container(space, {**v1, "default": "B", "edited": "B", "new": "N"}, "rm new")
    assert (read(space, "default"), read(space, "edited"), read(space, "own")) == ("B", "edited\n", "mine\n"), (
        space.said()
    )
    assert (read(space, "welcome"), read(space, "early")) == (None, None)
    assert "of the image stay" in space.said()
    assert "of the image removed again" in space.said()
    space.kill()
    container(space, {**v1, "default": "C", "edited": "B", "welcome": "hello 2", "new": "N"})
    assert (read(space, "default"), read(space, "edited"), read(space, "new")) == ("C", "edited\n", None), space.said()
    assert (read(space, "welcome"), read(space, "early")) == ("hello 2", None)
    space.kill()
    container(space, {"default": "D", "edited": "D", "welcome": "hello 3"}, SIDECAR_REVISION=first)
    assert (read(space, "default"), read(space, "edited")) == ("D", "edited\n"), space.said()
    assert (read(space, "welcome"), read(space, "own")) == ("hello 3", "mine\n")
    assert "Traceback" not in space.said()


def test_by_the_command_on_a_new_disk(space: Space) -> None:
    container(space, {"default": "A", "gone": "g"}, "echo mine >own", "rm gone")
    space.kill()
    space.lose_disk()
    (space.disk / "data").mkdir(parents=True)
    for name, content in {"default": "B", "gone": "g"}.items():
        (space.disk / "data" / name).write_text(content)
    brought = space.sidecar("restore")
    assert brought.returncode == 0, brought.stderr
    assert (read(space, "default"), read(space, "own"), read(space, "gone")) == ("B", "mine\n", None)
    space.start("sleep", "1000")
    space.running()
    assert read(space, "default") == "B"
    assert space.end(signal.SIGTERM) == 143
    container(space, {"default": "C", "gone": "g"})
    assert (read(space, "default"), read(space, "gone")) == ("C", None), "noted as the image's by the command too"
