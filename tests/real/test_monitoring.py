"""What Prometheus' own tool says of our metrics, and whether the example rules fire at what they are for."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from sidecar.state import State
from sidecar.web.metrics import exposition
from tests.web.test_metrics import busy

pytestmark = pytest.mark.real

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "monitoring"


def promtool(*argv: str, given: bytes = b"") -> str:
    done = subprocess.run(["promtool", *argv], input=given, capture_output=True, cwd=EXAMPLES, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("state", [busy(), State("i", "0", "s", "hf://x", True)], ids=["busy", "fresh"])
def test_names_and_types_are_as_prometheus_wants_them(state):
    assert promtool("check", "metrics", given=exposition(state, time.monotonic(), "")[0]) == ""


def test_the_example_rules_fire_at_what_they_are_for():
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_every_metric_in_a_rule_is_one_that_we_have():
    import re

    text, _ = exposition(busy(), time.monotonic(), "")
    used = set(re.findall(r"\bsidecar_[a-z_]+", (EXAMPLES / "alerts.yml").read_text()))
    assert used
    assert used <= set(re.findall(r"^(sidecar_[a-z_]+)", text.decode(), re.MULTILINE))
