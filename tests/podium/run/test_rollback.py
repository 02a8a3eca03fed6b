"""What a supervised stage does when its guard takes it back, piece by piece."""

import json

from podium.metrics import forget_later_metrics
from podium.run.rollback import without_batches


def test_a_batch_that_is_left_out_gives_way_to_one_from_half_a_run_away():
    """The next time to the one after that, and never to one that is left out as well. Mutations
    seen red: the neighbour in its place; what is left out twice replaced by the same; a batch that
    is left out itself in another's place.
    """
    rows = list("aabbccddeeff")
    assert "".join(without_batches(rows, 2, [])) == "aabbccddeeff"
    assert "".join(without_batches(rows, 2, [2])) == "aaeeccddeeff"
    assert "".join(without_batches(rows, 2, [2, 2])) == "aaffccddeeff"
    assert "".join(without_batches(rows, 2, [2, 5])) == "aaffccddccff"
    assert "".join(without_batches(rows, 2, [6])) == "aabbccddeecc"
    assert without_batches(["only"], 1, [1]) == ["only"]  # there is no other


def test_the_log_is_cut_after_a_step(tmp_path):
    """Mutation seen red: the line of the step itself gone, too."""
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": n, "loss": n / 7}) + "\n" for n in range(1, 6)))
    lines = log.read_text().splitlines(keepends=True)
    forget_later_metrics(log, 3)
    assert log.read_text() == "".join(lines[:3])
    forget_later_metrics(log, 0)
    assert log.read_text() == ""
    forget_later_metrics(tmp_path / "none.jsonl", 0)  # a run that logged nothing yet
