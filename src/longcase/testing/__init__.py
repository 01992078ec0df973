"""What users run before they trust it: a virtual clock over the real engine and the real store."""

from longcase.testing.simulate import Simulation

__all__ = ["Simulation"]
