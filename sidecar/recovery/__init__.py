"""Every start: claim, restore, verify, resume, and the record of it."""
