"""Incremental readers of calls and their arguments, one module per syntax. Each streams JSON fragments as text arrives."""
