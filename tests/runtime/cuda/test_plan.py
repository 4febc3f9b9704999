import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.cuda.plan import bucket, job_rows, window_batches


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 9), st.integers(1, 50), st.integers(0, 2))
def test_every_prompt_of_every_pass_is_decoded_once_with_its_window(counts, window_batch, prompt_batch, negatives):
    starts = np.concatenate([[0], np.cumsum(counts)])
    passes = [negatives, 0] if negatives else [0]
    batches = window_batches(starts, window_batch, prompt_batch, passes)
    owner = np.repeat(np.arange(len(counts)), counts)
    assert [window for batch in batches for window in batch.windows] == np.unique(owner).tolist()
    records = 0
    for k in dict.fromkeys(passes):
        decoded = [
            prompt
            for batch in batches
            for call in batch.calls
            if call.negatives == k
            for prompt in range(call.first, call.first + call.count)
        ]
        assert decoded == list(range(len(owner)))
    for batch in batches:
        assert len(batch.windows) <= batch.places <= window_batch
        for call in batch.calls:
            assert call.record == records
            records += call.count
            assert call.count <= call.places <= prompt_batch
            assert set(owner[call.first : call.first + call.count]) <= set(batch.windows)
        rows = job_rows(batch, window_batch)
        assert rows.shape == (len(batch.calls), 4 + window_batch)
        assert (rows[:, 4 : 4 + len(batch.windows)] == batch.windows).all()


def test_batches_come_in_few_sizes():
    assert [bucket(count, 16, 256) for count in (1, 16, 17, 100, 200, 256)] == [16, 16, 32, 128, 256, 256]
    assert [bucket(count, 1, 6) for count in range(1, 7)] == [1, 2, 4, 4, 6, 6]
