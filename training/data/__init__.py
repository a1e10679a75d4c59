"""The synthetic data: a source of words and values, one module for each skill, and the packed shards. See mix.py for the shares."""
