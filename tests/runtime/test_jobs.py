import asyncio
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from gc import collect
from weakref import ref

import pytest

from pnseg_runtime.errors import BackendError, PredictionCancelledError, QueueFullError
from pnseg_runtime.jobs import Jobs

PATIENCE = 30


@pytest.fixture
def gate():
    """Work that waits until the gate opens."""
    opened = threading.Event()
    yield opened
    opened.set()


@pytest.fixture
def jobs():
    made = Jobs(workers=1, queue=2)
    yield made
    made.close()


def behind(gate, result=None):
    def work(cancelled):
        while not gate.wait(0.01):
            if cancelled():
                raise PredictionCancelledError("off")
        return result

    return work


def test_a_job_gives_what_its_work_gives(jobs):
    assert jobs.submit(lambda _: 7).result(PATIENCE) == 7


def test_a_job_raises_what_its_work_raises(jobs):
    def fail(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        jobs.submit(fail).result(PATIENCE)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_even_what_would_end_a_program_comes_to_whoever_waits(jobs, error):
    def stop(_):
        raise error

    with pytest.raises(error):
        jobs.submit(stop).result(PATIENCE)


def test_a_full_queue_is_told_and_free_again_when_a_job_is_done(jobs, gate):
    held = [jobs.submit(behind(gate, i)) for i in range(3)]
    with pytest.raises(QueueFullError, match="3 places"):
        jobs.submit(lambda _: None, timeout=0.01)
    gate.set()
    assert [job.result(PATIENCE) for job in held] == [0, 1, 2]
    assert jobs.submit(lambda _: 1, timeout=PATIENCE).result(PATIENCE) == 1


def test_a_waiting_job_is_called_off_at_once_and_never_runs(jobs, gate):
    ran = []
    jobs.submit(behind(gate))
    waiting = jobs.submit(lambda _: ran.append(1))
    assert waiting.cancel()
    assert waiting.cancel(), "it is off already"
    assert waiting.done()
    with pytest.raises(PredictionCancelledError):
        waiting.result(PATIENCE)
    gate.set()
    jobs.submit(lambda _: None).result(PATIENCE)
    assert ran == []


def test_a_job_that_is_called_off_leaves_its_place_and_its_image(jobs, gate):
    class Image:
        pass

    image = Image()
    left = ref(image)
    running = jobs.submit(behind(gate))
    waiting = [jobs.submit(lambda _, image=image: image) for _ in range(2)]
    del image
    with pytest.raises(QueueFullError):
        jobs.submit(lambda _: 0, timeout=0.01)
    for job in waiting:
        job.cancel()
    collect()
    assert left() is None
    following = [jobs.submit(lambda _: 1, timeout=PATIENCE) for _ in range(2)]
    gate.set()
    running.result(PATIENCE)
    assert [job.result(PATIENCE) for job in following] == [1, 1]


def test_a_running_job_is_told_that_it_was_called_off(jobs, gate):
    started = threading.Event()

    def work(cancelled):
        started.set()
        return behind(gate)(cancelled)

    job = jobs.submit(work)
    assert started.wait(PATIENCE)
    assert job.cancel()
    with pytest.raises(PredictionCancelledError):
        job.result(PATIENCE)


def test_a_job_that_is_done_cannot_be_called_off(jobs):
    job = jobs.submit(lambda _: 1)
    job.result(PATIENCE)
    assert not job.cancel()
    assert job.result() == 1


def test_results_come_in_order_and_no_more_are_taken_on_than_there_are_places():
    jobs, taken = Jobs(workers=3, queue=2), []

    def works():
        for i in range(50):
            taken.append(i)
            yield lambda _, i=i: (time.sleep(0.001 * (i % 3)), i)[1]

    for expected, found in enumerate(jobs.in_order(works())):
        assert found == expected
        assert len(taken) <= found + 5
    assert len(taken) == 50
    jobs.close()


def test_works_whose_results_nobody_takes_any_more_are_called_off(jobs, gate):
    ran = []
    results = jobs.in_order([lambda _: 0, behind(gate), lambda _: ran.append(1)])
    assert next(results) == 0
    results.close()
    gate.set()
    jobs.submit(lambda _: None).result(PATIENCE)
    assert ran == []


def test_an_error_comes_when_it_is_its_turn_and_calls_off_the_rest(jobs):
    def works():
        yield lambda _: 0
        yield lambda _: 1 / 0
        for _ in range(1000):
            yield lambda _: 2

    results = jobs.in_order(works())
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert jobs.submit(lambda _: 3, timeout=PATIENCE).result(PATIENCE) == 3


def test_closing_calls_off_what_waits_and_finishes_what_runs(gate):
    jobs, started = Jobs(workers=1, queue=3), threading.Event()
    running = jobs.submit(lambda cancelled: (started.set(), behind(gate, "done")(cancelled))[1])
    assert started.wait(PATIENCE)
    waiting = jobs.submit(lambda _: "never")
    closing = threading.Thread(target=jobs.close)
    closing.start()
    assert jobs._closed.wait(PATIENCE)  # else what waits might run before it is called off
    gate.set()
    closing.join(PATIENCE)
    assert running.result(PATIENCE) == "done"
    with pytest.raises(PredictionCancelledError):
        waiting.result(PATIENCE)
    for _ in range(10):  # more than there are places
        with pytest.raises(BackendError, match="closed"):
            jobs.submit(lambda _: None, timeout=0.01)


def test_a_job_can_be_awaited(jobs, gate):
    async def main():
        job = jobs.submit(behind(gate, 5))
        beats = 0
        while not job.done() and beats < 3:  # the loop is free meanwhile
            await asyncio.sleep(0.001)
            beats += 1
        gate.set()
        assert beats == 3
        return await job

    assert asyncio.run(main()) == 5


def test_who_waits_for_a_job_that_is_called_off_is_told_so(jobs, gate):
    async def main():
        jobs.submit(behind(gate))
        job = jobs.submit(lambda _: 1)
        job.cancel()
        await job

    with pytest.raises(PredictionCancelledError):
        asyncio.run(main())
    gate.set()


def test_a_job_whose_waiter_is_cancelled_is_called_off(jobs, gate):
    async def main():
        job = jobs.submit(behind(gate))

        async def wait():
            return await job

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.05)
        return job

    job = asyncio.run(main())
    with pytest.raises(PredictionCancelledError):
        job.result(PATIENCE)


def test_results_that_are_worked_on_come_before_an_error_of_their_source(jobs):
    def works():
        yield lambda _: 0
        yield lambda _: (time.sleep(0.05), 1)[1]
        raise OSError("the disk is gone")

    results = jobs.in_order(works())
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_a_work_that_fails_before_its_source_does_is_told_first(jobs):
    def works():
        yield lambda _: 1 / 0
        raise OSError("the disk is gone")

    with pytest.raises(ZeroDivisionError):
        list(jobs.in_order(works()))


WAITING = {
    "for one": lambda jobs, work: jobs.submit(work).result(),
    "for many": lambda jobs, work: next(jobs.in_order([work])),
}


@pytest.mark.parametrize("wait", WAITING)
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_of_who_waits_calls_off_what_runs(gate, monkeypatch, wait, interruption):
    jobs, told, asked = Jobs(workers=1, queue=2), threading.Event(), Future.result

    def work(cancelled):
        while not gate.wait(0.01):
            if cancelled():
                told.set()
                raise PredictionCancelledError("off")

    def interrupted(future, timeout=None):
        monkeypatch.setattr(Future, "result", asked)
        raise interruption

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(interruption):
        WAITING[wait](jobs, work)
    assert told.wait(PATIENCE)
    jobs.close()


def test_a_job_that_is_not_done_in_time_goes_on(jobs, gate):
    job = jobs.submit(behind(gate, 7))
    with pytest.raises(FutureTimeoutError):
        job.result(0.01)
    gate.set()
    assert job.result(PATIENCE) == 7


def test_an_event_loop_goes_on_while_a_thread_waits_for_a_place(jobs, gate):
    async def main():
        held = [jobs.submit(behind(gate, i)) for i in range(3)]
        with pytest.raises(QueueFullError):
            jobs.submit(lambda _: 0, timeout=0)
        waiting = asyncio.create_task(asyncio.to_thread(jobs.submit, lambda _: 3))
        await asyncio.sleep(0.05)  # the loop is free, and there is no place yet
        assert not waiting.done()
        gate.set()
        job = await waiting
        return [await each for each in (*held, job)]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [0, 1, 2, 3]
