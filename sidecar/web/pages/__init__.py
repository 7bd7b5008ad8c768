"""Pages for browsers: whole documents without scripts, made from the same values as the JSON."""
