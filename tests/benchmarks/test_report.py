from benchmarks import report


def test_ratios_come_first_and_from_within_rounds():
    nano = [{"tokens_per_second.1": 200.0}, {"tokens_per_second.1": 50.0}]
    rival = [{"tokens_per_second.1": 100.0}, {"tokens_per_second.1": 25.0}]
    bare = [{"tokens_per_second.1": 220.0}, {"tokens_per_second.1": 50.0}]
    lines = report.table(report.rows((1,), 256), nano, rival, bare).splitlines()
    assert lines[2:] == ["| tokens/s, 1 client | **2.00** | **0.95** | 125 | 62.5 | 135 |"]


def test_what_one_contestant_lacks_stays_empty():
    table = report.table(report.rows((), 256), [{"spare_bytes": float(80 << 20)}], [{}], [])
    assert "| memory without a model, spare worker ready |  |  | 80 MiB |  |  |" in table
