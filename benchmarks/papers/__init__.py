"""The papers beside us: one file a paper, one table each. ``python -m benchmarks.papers`` runs them."""
