"""A Gradio app with a queue, streamed output and an upload, behind the front door."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr


def spell(text: str) -> Iterator[str]:
    """One letter more each time, as a model would stream."""
    for end in range(1, len(text) + 1):
        time.sleep(0.05)
        yield text[:end].upper()


def weigh(path: str | None) -> str:
    if path is None:
        return ""
    data = Path(path).read_bytes()
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()[:16]}"


with gr.Blocks(title="Behind the front door") as demo:
    said = gr.Textbox(label="Text")
    spelt = gr.Textbox(label="Spelt")
    gr.Button("Spell").click(spell, said, spelt)
    given = gr.File(label="File", type="filepath")
    weight = gr.Textbox(label="Weight")
    given.upload(weigh, given, weight)

if __name__ == "__main__":
    # The name and port are said here because Gradio would take 7860, which is the front door's.
    demo.queue().launch(server_name="127.0.0.1", server_port=int(os.environ.get("PORT", "7861")))
