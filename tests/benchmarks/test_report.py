from benchmarks import report


def test_ratios_come_first_and_from_within_rounds():
    nano = [{"tokens_per_second.1": 200.0}, {"tokens_per_second.1": 50.0}]
    rival = [{"tokens_per_second.1": 100.0}, {"tokens_per_second.1": 25.0}]
    bare = [{"tokens_per_second.1": 220.0}, {"tokens_per_second.1": 50.0}]
    lines = report.table(report.rows((1,), 256), {"ours": nano, "theirs": rival, "bare": bare}).splitlines()
    assert lines[0] == "| | ÷ theirs | ÷ bare | ours | theirs | bare |"
    assert lines[2:] == ["| tokens/s, 1 client | **2.00** | **0.95** | 125 | 62.5 | 135 |"]


def test_what_one_contestant_lacks_stays_empty():
    table = report.table(report.rows((), 256), {"ours": [{"spare_bytes": float(80 << 20)}], "theirs": [{}]})
    assert "| memory without a model, spare worker ready |  | 80 MiB |  |" in table


def test_troubles_are_told_over_all_rounds():
    met = [{"saturate.64": {"refused": 2}}, {"saturate.64": {"refused": 3, "cut": 1}}]
    lines = report.troubles({"ours": [{}, {}], "theirs": met}).splitlines()
    assert lines == ["- theirs, saturate.64: 5 × refused", "- theirs, saturate.64: 1 × cut"]
