"""Pages for browsers: whole documents, made from the same values as the JSON; every value in them is escaped."""
