"""HTTP: one module per dialect, and all that starlette is needed for."""
