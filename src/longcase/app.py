"""The only place that knows all: opens a store, loads workflows, wires the rest."""


class Longcase:
    """Placeholder wired in the vertical slice."""
