from benchmarks import prompts


def test_prompts_differ_and_repeat_by_seed():
    assert prompts.text(1, 20) == prompts.text(1, 20)
    assert prompts.text(1, 20) != prompts.text(2, 20)
    assert len(prompts.text(1, 20).split()) == 20


def test_ragged_lengths_average_what_was_asked_for():
    lengths = [prompts.ragged(100, i) for i in range(16)]
    assert (min(lengths), max(lengths)) == (50, 150)
    assert sum(lengths) == 1600
