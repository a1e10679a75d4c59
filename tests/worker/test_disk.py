"""The disk tier: prefixes come back after a restart and after an eviction, the same ones, or are computed."""

from __future__ import annotations

import errno
import random
import threading
import time
from pathlib import Path

import pytest

from mlx_server_nano.protocol import Unload
from mlx_server_nano.worker import kvfile
from mlx_server_nano.worker.disk import WORTHWHILE
from tests.worker.harness import Driver

ARCHITECTURES = ["qwen3", "gemma3_text", "qwen3_next", "mamba2"]
LENGTH = WORTHWHILE + 60


def prompt(seed: int = 0, length: int = LENGTH) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(10, 3000) for _ in range(length)]


def started(loaded, folder: Path, *, rate: float = 1e30, **options) -> Driver:
    """rate: bytes a second that files have been read at, so that it does not depend on the machine whether they are."""
    driver = Driver(loaded, prefix_cache_dir=str(folder), **{"prefix_cache_bytes": 1 << 30, **options})
    if (disk := driver.engine._reuse._disk) is not None:
        disk.payoff.nbytes, disk.payoff.seconds = 1e30, 1e30 / rate
    return driver


def ask(driver: Driver, ids: list[int], count: int = 12) -> tuple[str, int]:
    """The answer and how many tokens were not computed for it."""
    request = driver.tokens(ids, max_tokens=count)
    while (request, 0) not in driver.answers() or driver.answers()[request, 0].finish is None:
        # As `Engine.run` waits: a file may be on its way.
        driver.engine.turn(wait=driver.engine.idle and not driver.engine._reuse.leaving)
    driver.run()
    return driver.answers()[request, 0].text, driver.started()[request].cached_tokens


def unload(driver: Driver, seconds: float = 60) -> None:
    driver.inbox.put(Unload(seconds))
    driver.engine.run()


def wait_for_files(driver: Driver) -> None:
    """Until all that was evicted is in files: the thread that writes may be far behind."""
    disk = driver.engine._reuse._disk
    assert disk is not None
    deadline = time.monotonic() + 60
    while disk._leaving:
        assert disk._writer.wait(deadline)
        driver.turn()
    disk._writer.drain(deadline)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.kv"))


@pytest.mark.parametrize(
    ("arch", "dtype"), [*((arch, "float32") for arch in ARCHITECTURES), ("gemma3_text", "bfloat16")]
)
def test_a_conversation_goes_on_after_a_restart(tiny, tmp_path, arch, dtype):
    loaded, ids = tiny(arch, dtype=dtype), prompt()
    first = started(loaded, tmp_path)
    ask(first, ids)
    unload(first)
    longer = ids + prompt(1, 20)
    expected, _ = ask(Driver(loaded, prefix_cache_bytes=0), longer)
    second = started(loaded, tmp_path)
    answer, cached = ask(second, longer)
    assert cached >= LENGTH - 1
    if dtype == "float32":  # else a prompt computed in two parts may round differently
        assert answer == expected
    # What came from the disk is in the memory now.
    assert ask(second, longer) == (answer, len(longer) - 1)


def test_a_branch_of_what_is_on_disk_takes_what_it_shares(tiny, tmp_path):
    loaded, ids = tiny("qwen3"), prompt(length=2 * LENGTH)
    first = started(loaded, tmp_path)
    ask(first, ids)
    unload(first)
    branch = ids[:LENGTH] + prompt(2, 30)
    expected, _ = ask(Driver(loaded, prefix_cache_bytes=0), branch)
    assert ask(started(loaded, tmp_path), branch) == (expected, LENGTH)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_evicted_comes_back(tiny, tmp_path, arch):
    loaded = tiny(arch)
    prompts = [prompt(seed) for seed in range(3)]
    probe = Driver(loaded, prefix_cache_bytes=1 << 30)
    expected = [ask(probe, ids)[0] for ids in prompts]
    room = probe.engine._reuse.nbytes // 2
    driver = started(loaded, tmp_path, prefix_cache_bytes=room)
    for _ in range(2):
        assert [ask(driver, ids)[0] for ids in prompts] == expected
    wait_for_files(driver)
    assert files(tmp_path)
    again = [ask(driver, ids) for ids in prompts]
    assert [answer for answer, _ in again] == expected
    assert all(cached == LENGTH - 1 for _, cached in again)
    assert driver.engine._reuse.nbytes <= room


def test_requests_for_the_same_file_share_one_reading(tiny, tmp_path, monkeypatch):
    loaded, ids = tiny("qwen3"), prompt()
    first = started(loaded, tmp_path)
    ask(first, ids)
    unload(first)
    read, readings, go = kvfile.read, [], threading.Event()

    def slow(path):
        readings.append(path)
        assert go.wait(60)
        return read(path)

    monkeypatch.setattr(kvfile, "read", slow)
    driver = started(loaded, tmp_path)
    requests = [driver.tokens(ids, max_tokens=3) for _ in range(3)]
    other = driver.tokens(prompt(5, 20), max_tokens=3)
    driver.run()
    # A request that needs no file does not wait for others', and one that is cancelled is not run.
    assert driver.answers().keys() == {(other, 0)}
    driver.cancel(requests[0])
    driver.turn()
    go.set()
    while len(driver.answers()) < 3:
        driver.engine.turn(wait=driver.engine.idle)
    driver.run()
    assert len(readings) == 1
    assert driver.answers().keys() == {(other, 0), (requests[1], 0), (requests[2], 0)}
    assert all(driver.started()[request].cached_tokens == LENGTH - 1 for request in requests[1:])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [damage, lambda path: path.write_bytes(b"x"), Path.unlink])
def test_a_damaged_file_is_removed_and_the_prompt_computed(tiny, tmp_path, spoil):
    loaded, ids = tiny("qwen3"), prompt()
    first = started(loaded, tmp_path)
    expected, _ = ask(first, ids)
    unload(first)
    second = started(loaded, tmp_path)
    (file,) = files(tmp_path)
    spoil(file)
    assert ask(second, ids) == (expected, 0)
    assert not file.exists()


def test_another_model_finds_nothing(tiny, tmp_path):
    ids = prompt()
    first = started(tiny("qwen3"), tmp_path)
    ask(first, ids)
    unload(first)
    other = tiny("qwen3", seed=1)
    assert ask(started(other, tmp_path), ids) == (ask(Driver(other, prefix_cache_bytes=0), ids)[0], 0)
    assert len(files(tmp_path)) == 1


def test_the_size_limit_holds(tiny, tmp_path):
    loaded = tiny("qwen3")
    # Room for two of the four: a token takes 512 bytes.
    limit = 2 * 512 * LENGTH + 20_000
    driver = started(loaded, tmp_path, prefix_cache_disk=limit)
    for seed in range(4):
        ask(driver, prompt(seed), 1)
    unload(driver)
    assert len(files(tmp_path)) == 2
    assert sum(path.stat().st_size for path in files(tmp_path)) <= limit


def test_short_prefixes_are_not_written_and_what_is_there_not_again(tiny, tmp_path):
    loaded = tiny("qwen3")
    driver = started(loaded, tmp_path)
    ask(driver, prompt(1, WORTHWHILE - 20))
    unload(driver)
    assert not files(tmp_path)
    for _ in range(2):
        driver = started(loaded, tmp_path)
        ask(driver, prompt(), 1)
        unload(driver)
    (first,) = files(tmp_path)
    driver = started(loaded, tmp_path)
    ask(driver, prompt() + prompt(1, 30), 1)
    unload(driver)
    started(loaded, tmp_path)  # removes what the longer one covers
    (second,) = files(tmp_path)
    assert second != first


@pytest.mark.parametrize("at", ["__init__", "add", "commit"])
def test_a_full_disk_stops_the_tier_for_a_while_and_nothing_else(tiny, tmp_path, monkeypatch, caplog, at):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    loaded = tiny("qwen3")
    prompts = [prompt(seed) for seed in range(3)]
    expected = [ask(Driver(loaded, prefix_cache_bytes=0), ids)[0] for ids in prompts]
    driver = started(loaded, tmp_path, prefix_cache_bytes=400_000)
    monkeypatch.setattr(kvfile.Writer, at, full)
    for _ in range(2):
        assert [ask(driver, ids)[0] for ids in prompts] == expected
    wait_for_files(driver)
    unload(driver)
    assert not files(tmp_path)
    assert caplog.text.count("not written to disk") == 1


def test_a_folder_that_can_not_be_made_leaves_the_tier_off(tiny, tmp_path, caplog):
    (tmp_path / "file").touch()
    driver = started(tiny("qwen3"), tmp_path / "file" / "folder")
    assert ask(driver, prompt())[0]
    assert "not kept on disk" in caplog.text


def test_an_unload_ends_in_time_and_leaves_nothing_half_done(tiny, tmp_path):
    driver = started(tiny("qwen3"), tmp_path)
    ask(driver, prompt())
    unload(driver, seconds=0)
    assert not files(tmp_path)


@pytest.mark.parametrize(("rate", "cached"), [(1e-9, 0), (1e30, LENGTH - 1)])
def test_a_file_is_read_only_where_that_is_faster_than_computing(tiny, tmp_path, rate, cached):
    loaded, ids = tiny("qwen3"), prompt()
    first = started(loaded, tmp_path)
    expected, _ = ask(first, ids)
    unload(first)
    second = started(loaded, tmp_path, rate=rate)
    ask(second, prompt(7))  # now the speed of computing is known
    assert ask(second, ids) == (expected, cached)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(("rate", "written"), [(1e-9, 0), (1e30, 1)])
def test_a_file_is_written_only_where_reading_it_is_faster_than_computing(tiny, tmp_path, rate, written):
    driver = started(tiny("qwen3"), tmp_path, rate=rate)
    ask(driver, prompt())
    unload(driver)
    assert len(files(tmp_path)) == written


def test_speeds_are_remembered_beside_the_files(tiny, tmp_path):
    loaded = tiny("qwen3")
    first = started(loaded, tmp_path, rate=5)
    ask(first, prompt())
    unload(first)
    second = Driver(loaded, prefix_cache_dir=str(tmp_path), prefix_cache_bytes=1 << 30).engine._reuse._disk
    assert second is not None and second.payoff.speeds
    assert 5 < second.payoff.nbytes / second.payoff.seconds < 6, "what was not written brings the next try nearer"
