"""The seconds of a prediction, stage by stage."""

import pytest

from pnseg_runtime import clock
from pnseg_runtime.clock import STAGES, Clock


def test_the_seconds_of_a_stage_add_up_even_where_it_fails(monkeypatch):
    times = iter([1.0, 3.0, 10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(clock, "perf_counter", lambda: next(times))
    timed = Clock()
    with timed("decoder"):
        pass
    with timed("decoder"):
        pass
    with pytest.raises(ZeroDivisionError), timed("masks"):
        raise ZeroDivisionError
    assert timed.seconds == dict.fromkeys(STAGES, 0.0) | {"decoder": 6.0, "masks": 1.0}
