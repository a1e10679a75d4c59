"""The console script, and `python -m mlx_server_nano.main`."""

from mlx_server_nano.cli.app import main

if __name__ == "__main__":
    main()
