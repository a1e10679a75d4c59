from __future__ import annotations

import pytest

from mlx_server_nano.models.names import ModelKind, ModelRef, is_path, is_repository, is_short, rank


@pytest.mark.parametrize(
    ("name", "repository", "expected"),
    [
        ("qwen3-0.6b-4bit", "mlx-community/Qwen3-0.6B-4bit", 0),
        ("Qwen3-0.6B-4bit", "mlx-community/Qwen3-0.6B-4bit", 0),
        ("qwen3-30b-a3b-instruct-2507", "mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit", 1),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B-MLX-4bit", 1),
        ("qwen3-0.6b", "someone/Qwen3-0.6B-MLX", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-bf16", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-fp16", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-4bit-DWQ", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-4bit-DWQ-053125", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-mixed-3-6-bit", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-mxfp4", 1),
        ("qwen3-0.6b", "mlx-community/Qwen3-0.6B-6bit-gs32", 1),
        ("gpt-oss-20b", "mlx-community/gpt-oss-20b-MXFP4-Q8", 1),
        ("llama-3.2-1b-instruct", "mlx-community/Llama-3.2-1B-Instruct-3.5bit", 1),
        # Different models, however alike the names begin.
        ("qwen3-4b", "mlx-community/Qwen3-4B-Instruct-2507-4bit", None),
        ("qwen3", "mlx-community/Qwen3-0.6B-4bit", None),
        ("qwen3-4b-2507", "mlx-community/Qwen3-4B-2507-Instruct-4bit", None),
        ("qwen3-3", "mlx-community/Qwen3-30B-4bit", None),
        ("4bit", "mlx-community/Qwen3-0.6B-4bit", None),
        ("qwen3-0.6b-8bit", "mlx-community/Qwen3-0.6B-4bit", None),
        ("mlx-community", "mlx-community/Qwen3-0.6B-4bit", None),
    ],
)
def test_a_short_name_fits_up_to_how_the_weights_are_stored(name: str, repository: str, expected: int | None) -> None:
    assert rank(name, repository) == expected


@pytest.mark.parametrize("name", ["a/b", "mlx-community/Qwen2.5-7B-Instruct-4bit", "A_b/c.d-e"])
def test_repository_ids(name: str) -> None:
    assert is_repository(name) and not is_short(name) and not is_path(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a//b",
        "a/b/c",
        "/a",
        "a/",
        "../b",
        "a/..",
        "a--b",
        "a/b--c",
        "a\n",
        "é",
        "a\0b",
        ".",
        "..",
        "-a",
        "a" * 97,
    ],
)
def test_what_is_neither_repository_nor_short(name: str) -> None:
    assert not is_repository(name) and not is_short(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("/models/a", True), ("~/a", True), ("./a", True), ("../a", True), ("a/b", False), (".a", False), ("/a\0", False)],
)
def test_paths_begin_like_paths(name: str, expected: bool) -> None:
    assert is_path(name) is expected


def test_the_hub_ignores_case_and_folders_do_not() -> None:
    assert ModelRef("Org/Name", ModelKind.HUB, None).key == ModelRef("org/name", ModelKind.HUB, None).key
    assert ModelRef("/Name", ModelKind.LOCAL, None).key != ModelRef("/name", ModelKind.LOCAL, None).key
