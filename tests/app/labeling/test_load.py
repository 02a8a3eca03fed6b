"""The benchmark's load at a smaller size: two tabs a person, every answer posted three times in
parallel, some of them written.
"""

import pytest

from benchmarks.labeling import Load, measure


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_exactly_the_wanted_rankings_are_stored(kind, request, capsys):
    """`measure` also holds every task's counters against its rows.

    Mutation seen red: no lock on the person's row (PostgreSQL).
    """
    database = request.getfixturevalue("cluster").url("load") if kind == "postgresql" else None
    load = Load(labelers=8, tasks=16, written=6, overlap=3, think=0.02)
    found = measure(kind, database, load)
    assert found["wanted"] == found["stored"] == 66 and found["lost"] == found["doubled"] == 0
    assert len(load.acknowledged) == 66 and load.statuses["submit 200"] == 3 * 66
    assert load.statuses["suggest 200"] >= 6 and load.statuses["draft 200"] >= 18
    # 410: a draft or a wish of a tab whose task the other tab has answered; 429: both ask at once
    assert {status.split()[1] for status in load.statuses} <= {"200", "409", "410", "429"}
