"""The command line: serving is the default command."""
