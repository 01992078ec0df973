"""What can be said of a store and of definitions: invariants, conformance, exports, descriptions. Reads only."""
