"""How fast the server is, beside its rival and the bare loops. `python -m benchmarks.serve`; see README.md."""
