"""From files on disk to one consistent state that a store can keep, and its description."""
