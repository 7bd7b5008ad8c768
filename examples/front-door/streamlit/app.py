"""A Streamlit app that keeps a number in a file, behind the front door. The Dockerfile says how it is started."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

KEPT = Path(os.environ.get("DATA_DIR", "/data")) / "clicks"

clicks = int(KEPT.read_text()) if KEPT.exists() else 0
st.title("Behind the front door")
if st.button("Count"):
    clicks += 1
    KEPT.write_text(str(clicks))
st.write(f"Clicked {clicks} times")
given = st.file_uploader("File")
if given is not None:
    st.write(f"{len(given.getvalue())} bytes came")
