"""MLX Server Nano: an OpenAI-compatible API server for language models on MLX."""
