"""Which models there are, and the worker processes that run them."""
