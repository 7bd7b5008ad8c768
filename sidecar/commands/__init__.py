"""What stands behind each command of ``sidecar``; imported only when that command is called."""
