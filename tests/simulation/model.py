def compare(state, events): return []
