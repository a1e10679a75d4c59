"""How the built-in demo model is made: synthetic data, tokenizer, training, evaluation, export. README.md has the commands."""
