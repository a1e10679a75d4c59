import pytest
from benchmarks.figures import Answer, full_batch_rate, gaps_within, middle, rates_together, ratio, throughput


def answer(sent: float, *arrivals: float, tokens: int | None = None) -> Answer:
    return Answer(sent=sent, arrivals=arrivals, tokens=len(arrivals) if tokens is None else tokens)


def test_first_and_gaps():
    one = answer(1.0, 1.5, 1.7, 2.7)
    assert one.first == 0.5
    assert one.gaps == pytest.approx([0.2, 1.0])


def test_throughput_counts_from_the_first_request_to_the_last_token():
    assert throughput([answer(0.0, 1.0, 2.0), answer(1.0, 3.0, 4.0)]) == 1.0


def test_full_batch_rate_leaves_out_ragged_ends():
    # Together from 2 to 4 s: four arrivals of each in two seconds.
    early = answer(0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    late = answer(0.0, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
    assert full_batch_rate([early, late], 2) == pytest.approx(4.0)


def test_rates_together_count_while_all_answers_run():
    slow, fast = answer(0.0, 1.0, 2.0, 3.0, 4.0, 5.0), answer(0.0, 2.0, 2.5, 3.0, 3.5, 4.0)
    assert rates_together([slow, fast]) == pytest.approx([1.0, 2.0])
    assert rates_together([slow, answer(0.0, 5.0, 6.0)]) is None


def test_full_batch_rate_counts_tokens_not_pieces():
    steps = [1.0, 2.0, 3.0]
    assert full_batch_rate([answer(0.0, *steps), answer(0.0, *steps, tokens=6)], 2) == pytest.approx(3.0)


def test_full_batch_rate_skips_pauses_between_a_clients_requests():
    other = answer(0.0, *range(1, 12))
    first, second = answer(0.0, 1, 2, 3), answer(3.0, 9, 10, 11)
    assert full_batch_rate([other, first, second], 2) == pytest.approx(2.0)


def test_rows_that_never_ran_together_have_no_full_batch_rate():
    assert full_batch_rate([answer(0.0, 1.0, 2.0), answer(0.0, 3.0, 4.0)], 2) is None


def test_gaps_within_a_time_include_those_that_reach_into_it():
    assert gaps_within([[1.0, 3.0, 3.5, 6.0], [0.5]], 2.0, 3.2) == [2.0, 0.5]


def test_middle_of_nothing_is_nothing():
    assert middle([None, 3.0, 1.0, None, 2.0]) == 2.0
    assert middle([None]) is None


def test_ratio_is_taken_within_rounds():
    # The machine was four times slower in the second round; both were.
    assert ratio([100.0, 25.0], [50.0, 12.5]) == 2.0
    assert ratio([None, 25.0], [50.0, 12.5]) == 2.0
    assert ratio([1.0], [None]) is None
