"""`make soak`: hours of kills and faults in little time, and whether anything that was acknowledged is missing."""
