"""Each claim about speed or size, as a script that prints a table."""
