"""A draft model: the large model itself, which is always right, or another, which is nearly always wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_server_nano.errors import ModelLoadError
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import Constraint, Sampling
from mlx_server_nano.worker import draft_loader, loader
from mlx_server_nano.worker.costs import Costs
from mlx_server_nano.worker.draft_model import DraftModel
from mlx_server_nano.worker.loader import LoadedModel
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import Watched, check, crowd, prompt, watched


def drafting(loaded: LoadedModel, **changes: Any) -> DraftModel:
    values: dict[str, Any] = {
        "vocab_size": loaded.info.vocab_size,
        "context_length": 4096,
        "share": 0.1,
        "row_cost": loaded.row_cost,
        "budget": 1 << 24,
        **changes,
    }
    return DraftModel(loaded.model, loaded.new_caches, **values)


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide passes that cost next to nothing."""
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 0.01)


@pytest.mark.parametrize("right", [True, False])
def test_greedy_output_is_mlx_lms_in_any_crowd(tiny: Tiny, right: bool):
    loaded = tiny("qwen3")
    driver = crowd(
        loaded, seed=2, draft_model=drafting(loaded if right else tiny("qwen3", seed=1)), speculation=True, requests=7
    )
    assert driver.recorder.drafted > 20
    if right:
        assert driver.recorder.accepted > 0.9 * driver.recorder.drafted
    else:
        assert driver.recorder.accepted < 0.3 * driver.recorder.drafted


def test_both_models_draw_by_the_same_numbers(tiny: Tiny):
    """So that a model drafts for itself without a miss, sampled or not, and seeds give what they give without."""
    loaded = tiny("llama")
    rng = random.Random(2)
    samplings = (
        Sampling(temperature=1.2, top_p=0.95, seed=42),
        Sampling(temperature=1, seed=43),
        Sampling(temperature=0.8, top_k=20, seed=44),
        Sampling(temperature=0),
    )
    prompts = [prompt(rng, 25) for _ in samplings]
    seen = []
    for speculation in (False, True):
        driver = Driver(loaded, drafting(loaded), speculation=speculation)
        for ids, sampling in zip(prompts, samplings, strict=True):
            driver.tokens(ids, sampling=sampling, max_tokens=30)
        driver.run()
        seen.append(driver.outputs)
    assert seen[0] == seen[1]
    assert driver.recorder.accepted == driver.recorder.drafted > 80


def test_grammars_cut_drafts_off(tiny: Tiny):
    loaded = tiny("qwen3")
    driver = Driver(loaded, drafting(loaded), speculation=True)
    constraint = Constraint(grammar=r"start: /[a-z]{3,9}( [a-z]{3,9}){4}/")
    bound = driver.tokens(prompt(random.Random(1), 20), constraint=constraint, max_tokens=40)
    ids = prompt(random.Random(2), 30)
    other = driver.tokens(ids, max_tokens=30)
    driver.run()
    assert len(driver.answers()[bound, 0].text.split()) == 5
    check(loaded, driver.answers()[other, 0], ids, 30)


def test_a_long_prompt_goes_through_it_in_portions_and_is_kept(tiny: Tiny):
    loaded = tiny("qwen3")
    small = Watched(loaded.model)
    draft_model = drafting(dataclasses.replace(loaded, model=small))
    driver = Driver(loaded, draft_model, speculation=True, busy_prefill_chunk=64)
    ids = prompt(random.Random(1), 700)
    request_id = driver.tokens(ids, max_tokens=30)
    driver.run()
    driver.turn()
    first = sum(width for _, width in small.shapes)
    assert max(width for _, width in small.shapes) <= 512
    assert driver.recorder.accepted
    small.shapes.clear()
    longer = [*ids, *driver.outputs[request_id, 0], 9, 8, 7]
    request_id = driver.tokens(longer, max_tokens=30)
    driver.run()
    check(loaded, driver.answers()[request_id, 0], longer, 30)
    assert sum(width for _, width in small.shapes) < first / 4
    assert driver.recorder.accepted > 40, "the second row was drafted for as the first one was"


def test_a_draft_model_that_fails_fails_no_request(tiny: Tiny, caplog: pytest.LogCaptureFixture):
    loaded = tiny("qwen3")
    small = Watched(loaded.model)
    draft_model = drafting(dataclasses.replace(loaded, model=small))
    driver = Driver(loaded, draft_model, speculation=True)
    ids = prompt(random.Random(1), 30)
    request_id = driver.tokens(ids, max_tokens=38)
    driver.turn(3)
    small.fail = lambda inputs: True
    driver.run()
    check(loaded, driver.answers()[request_id, 0], ids, 38)
    assert not driver.failures()
    assert "The draft model failed" in caplog.text


def test_a_draft_model_that_is_always_wrong_is_only_tried_now_and_then(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 1.4)
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded, drafting(tiny("qwen3", seed=1)), speculation=True)
    driver.tokens(prompt(random.Random(1), 30), max_tokens=300)
    driver.run()
    assert 3 < sum(width > 1 for _, width in model.shapes) < 25


# Which model may draft for which.


def options(folder: Path | None, **fields: Any) -> LoadOptions:
    return LoadOptions(log_name="large", draft_folder=None if folder is None else str(folder), **fields)


def test_one_that_fits(tiny: Tiny, tiny_folder: Callable[..., Path]):
    loaded = tiny("qwen3")
    assert draft_loader.load(loaded, options(None)) is None
    assert draft_loader.load(loaded, options(tiny_folder("llama"), speculation=False)) is None
    found = draft_loader.load(loaded, options(tiny_folder("llama")))
    assert found is not None and 0.1 < found.share < 10


def test_one_that_can_not_be_used(tiny: Tiny, tiny_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    assert draft_loader.load(tiny("qwen3"), options(tiny_folder("qwen3_next"))) is None
    assert "taken back" in caplog.text
    with pytest.raises(ModelLoadError, match="can't draft for large"):
        draft_loader.load(tiny("qwen3"), options(tiny_folder("qwen3_next"), draft_required=True))


@pytest.mark.parametrize("trusted", [False, True])
def test_the_trust_in_the_large_model_is_not_for_the_small_one(
    tiny: Tiny, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, trusted: bool
):
    asked: list[bool] = []
    load = loader.load

    def note(folder: Path, options: LoadOptions, on_progress: Callable[[float], None]) -> LoadedModel:
        asked.append(options.trust_remote_code)
        return load(folder, options, on_progress)

    monkeypatch.setattr(loader, "load", note)
    both = {"trust_remote_code": not trusted, "draft_trust_remote_code": trusted}
    assert draft_loader.load(tiny("qwen3"), options(tiny_folder("llama"), **both)) is not None
    assert asked == [trusted]


def test_one_with_another_vocabulary(tiny: Tiny, tmp_path: Path, tiny_folder: Callable[..., Path]):
    folder = tmp_path / "small"
    folder.mkdir()
    for file in tiny_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelLoadError, match="vocabularies differ"):
        draft_loader.load(tiny("qwen3"), options(folder, draft_required=True))
