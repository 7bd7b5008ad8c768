"""The scheduler's side: pinging many Spaces from one place."""
