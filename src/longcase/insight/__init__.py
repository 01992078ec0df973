"""What can be asked: worklist, stuck, timeline, audit. Reads only."""
