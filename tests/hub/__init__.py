"""A local Hub for tests and `sidecar demo --hub`: the wire protocol of huggingface_hub over real HTTP."""

from __future__ import annotations
