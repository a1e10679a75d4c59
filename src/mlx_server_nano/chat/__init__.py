"""Text to structure: what a model writes, as content, reasoning and tool calls. Pure Python."""
