"""What is wrong with a configuration."""


class SettingError(ValueError):
    """A setting's value is unusable. The message is one line that names the flag, the variable, or the file and its key."""
