"""The gap bench's pure parts, on a log that was made up."""

from experiment.gap import Cell, around, cell, ends_upload, gaps, quantile, table
from experiment.observe import Request


def put(at: float, level: int = 0, status: int = 200, size: int = 100) -> Request:
    return Request(at, "PUT", f"edge01/sample.db/{level:04}/1.ltx", status, "", "key", size)


def test_gaps_and_those_in_which_a_change_lies() -> None:
    times = [0.0, 1.0, 2.5, 3.0]
    assert gaps(times) == [1.0, 1.5, 0.5]
    assert around(times, [1.2, 2.4, 9.0]) == [1.5]
    assert around(times, []) == []


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([], 0.99) == 0.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(number) for number in range(1, 101)], 0.99) == 99.0


def test_a_cell_counts_level_0_for_the_gaps_all_levels_for_the_bytes_and_refusals_by_themselves() -> None:
    requests = [put(0), put(1), put(1.5, level=1), put(2, status=403), put(4)]
    found = cell("process", "sample", requests, [3.0], rows=4)
    expected = Cell("process", "sample", 1, 3, 3.0, 2.0, 3.0, 3.0, 100.0, 1)
    assert found == expected


def test_ratios_are_taken_to_the_baseline_of_the_same_load() -> None:
    cells = [
        Cell("process", "busy", 10, 100, 2.1, 1.0, 1.5, 1.1, 10.0, 0),
        Cell("environment", "busy", 10, 100, 3.6, 1.0, 3.0, 2.4, 12.0, 0),
        Cell("restarted", "busy", 10, 100, 3.0, 1.0, 3.0, 2.0, 12.0, 0),
        Cell("alone", "busy", 0, 100, 2.0, 1.0, 1.5, None, 10.0, 0),
    ]
    lines = [line.split() for line in table(cells).splitlines()]
    assert lines[1][-5:] == ["alone", "1.05", "1.00", "1.10", "1.00"]
    assert lines[2][-5:] == ["restarted", "1.20", "1.00", "1.20", "1.00"]
    assert lines[3][-5:] == ["alone", "1.50", "2.00", "2.00", "1.20"]
    assert "alone" not in lines[4][2:]


def test_an_upload_in_parts_ends_with_the_post_that_names_it() -> None:
    key = "edge01/large.db/0001/1.ltx"
    begin = Request(1, "POST", key, 200, "", "key", 0, "uploads=")
    part = Request(2, "PUT", key, 200, "", "key", 5, "partNumber=1&uploadId=a")
    refused = Request(3, "POST", key, 403, "", "key", 0, "uploadId=a")
    end = Request(4, "POST", key, 200, "", "key", 0, "uploadId=a")
    requests = [begin, part, refused, end]
    assert [ends_upload(request, "large.db/0001/") for request in requests] == [False, False, False, True]
    assert not ends_upload(end, "large.db/0002/")
