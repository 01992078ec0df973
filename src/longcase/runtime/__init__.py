"""What moves cases: turns over a store, attempts in this process, the worker."""
