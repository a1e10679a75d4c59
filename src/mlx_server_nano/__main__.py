"""`python -m mlx_server_nano`."""

from mlx_server_nano.cli.app import main

if __name__ == "__main__":
    main()
