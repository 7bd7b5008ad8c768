"""From a change on disk to a durable snapshot."""
