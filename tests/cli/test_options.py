"""Flags that may come several times."""

import pytest

from mlx_server_nano.cli.serve import serve
from mlx_server_nano.config import resolve


@pytest.mark.parametrize(
    ("args", "environment", "model_map"),
    [
        ([], {}, ()),
        (["--model-map", "claude-*=a/b", "--model-map", "x=/m/y=z"], {}, (("claude-*", "a/b"), ("x", "/m/y=z"))),
        (["--model-map", "a=b, c=d"], {"MLX_MODEL_MAP": "e=f"}, (("a", "b"), ("c", "d"))),
        ([], {"MLX_MODEL_MAP": "e=f,"}, (("e", "f"),)),
        ([], {"MLX_MODEL_MAP": ""}, ()),
    ],
)
def test_model_map(args, environment, model_map):
    flags = serve.make_context("serve", args).params
    assert resolve(flags, environment).model_map == model_map


def test_aliases():
    flags = serve.make_context("serve", ["--alias", "a=org/b", "--alias", "c=a,d=./e"]).params
    assert resolve(flags, {"MLX_ALIAS": "x=y"}).alias == (("a", "org/b"), ("c", "a"), ("d", "./e"))
    assert resolve({}, {"MLX_ALIAS": "x=y"}).alias == (("x", "y"),)
