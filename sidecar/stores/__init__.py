"""Where snapshots go: each module is one kind of store behind the protocol of ``base``."""
