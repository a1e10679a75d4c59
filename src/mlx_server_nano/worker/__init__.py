"""A worker process: owns MLX, loads one model, generates tokens."""
