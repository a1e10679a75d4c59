from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest
from benchmarks.soak import report
from benchmarks.soak.dialects import Dialect, Streamed, refusal
from benchmarks.soak.growth import fit
from benchmarks.soak.journal import Journal, RefusedError, WrongError
from benchmarks.soak.rude import check_stream
from benchmarks.soak.watch import Pause, Sample, Watch


def test_what_grows_is_told_from_what_swings():
    growing = fit([(float(second), 100.0 + second + second % 2) for second in range(100)])
    swinging = fit([(float(second), 100.0 + 10 * (second % 2)) for second in range(100)])
    assert growing is not None and swinging is not None
    assert growing.rise == pytest.approx(99, rel=0.02) and growing.per_hour == pytest.approx(3600, rel=0.02)
    assert not growing.within(0.05, 10) and swinging.within(0.05, 0)
    assert fit([(0.0, 1.0), (1.0, 2.0)]) is None


def test_an_error_needs_a_fault_that_explains_it():
    journal = Journal()
    sent = time.monotonic()
    journal.refused("known", sent, RefusedError(500, "worker_died", "The worker process died."))
    journal.refused("known", sent, RefusedError(500, None, "Oh."))
    assert len(journal.unexplained) == 2
    assert "500 None: Oh.; faults: none" in journal.unexplained[-1]
    journal.befell("worker 7 frozen", sent)
    journal.failed("schema", sent, ConnectionError("reset"))
    assert "ConnectionError: reset; faults: worker 7 frozen +0.0 s" in journal.unexplained[-1]
    journal.killed(8, "ready")
    journal.refused("known", sent, RefusedError(500, "worker_died", "The worker process died."))
    journal.refused("known", sent + 3600, RefusedError(500, "worker_died", "The worker process died."))
    journal.failed("known", sent, WrongError("another text"))
    assert (len(journal.unexplained), journal.excused["worker_died"], len(journal.wrong)) == (4, 1, 1)


def test_errors_of_all_dialects_are_read():
    assert refusal(529, b'{"type": "error", "error": {"message": "x needs about 3 GiB"}}').code == "insufficient_memory"
    assert refusal(400, b'{"error": {"message": "no", "code": "mine"}}').code == "mine"
    with pytest.raises(WrongError):
        refusal(500, b"<html>")
    streamed = Streamed(Dialect.RESPONSES)
    streamed.feed('data: {"type": "response.output_text.delta", "delta": "hi"}')
    assert (streamed.said, streamed.ended) == ("|hi", False)
    failed = '{"code": "server_error", "message": "The worker process died of SIGKILL."}'
    with pytest.raises(RefusedError) as caught:
        streamed.feed(f'data: {{"type": "response.failed", "response": {{"error": {failed}}}}}')
    assert caught.value.code == "worker_died"


def run_with(pauses: list[Pause]) -> report.Run:
    watch = Watch(psutil.Process())
    for pause in pauses:
        watch.samples[1].append(Sample(pause.at, 0, 7, 1))
    return report.Run(Journal(), watch, [], pauses, 1.0, 0.0)


def test_a_worker_that_grows_is_told_from_one_whose_memory_swings():
    def judged(resident: Callable[[int], int]) -> bool:
        pauses = [Pause(float(i), frozenset({1}), resident(i) << 20, 10 << 20) for i in range(16)]
        memory, descriptors = report._workers(run_with(pauses))
        assert descriptors.good
        return memory.good

    assert judged(lambda i: 200 + 40 * (i % 3))
    assert not judged(lambda i: 200 + 3 * i + 40 * (i % 3))
    assert not report._workers(run_with([]))[0].good


def test_a_slow_reader_tells_an_error_from_a_stream_that_breaks_off():
    check_stream(b"HTTP/1.1 200 OK\r\n\r\n1\r\nx\r\n0\r\n\r\n")
    with pytest.raises(WrongError, match="no end"):
        check_stream(b"HTTP/1.1 200 OK\r\n\r\n1\r\nx\r\n")
    with pytest.raises(RefusedError, match="500 worker_died"):
        died = b'{"error": {"message": "The worker process died.", "code": "worker_died"}}'
        check_stream(b"HTTP/1.1 500 Internal Server Error\r\n\r\n" + died)
