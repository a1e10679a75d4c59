"""The synthetic data: a source of words and values, a module for each skill, and shards. mix.py has the shares."""
