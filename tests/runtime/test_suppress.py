import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.suppress import greedy_suppress

NO_PAIRS = np.empty((0, 2), np.intp)


@st.composite
def items_and_pairs(draw):
    count = draw(st.integers(1, 12))
    index = st.integers(0, count - 1)
    pairs = draw(st.lists(st.tuples(index, index).filter(lambda pair: pair[0] != pair[1])))
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=count, max_size=count))
    return np.array(scores), np.array(pairs, np.intp).reshape(-1, 2)


def test_the_best_of_a_chain_removes_its_neighbours_only():
    keep = greedy_suppress([0.9, 0.8, 0.7], np.array([[0, 1], [1, 2]]))
    assert keep.tolist() == [True, False, True]


def test_of_equal_scores_the_lower_index_stays():
    assert greedy_suppress([0.5, 0.5], np.array([[1, 0]])).tolist() == [True, False]


def test_without_pairs_everything_stays():
    assert greedy_suppress([], NO_PAIRS).tolist() == []
    assert greedy_suppress([0.1, 0.2], NO_PAIRS).tolist() == [True, True]


@given(items_and_pairs())
def test_kept_items_exclude_each_other_and_every_removed_one_has_a_better_kept_neighbour(given_items):
    scores, pairs = given_items
    keep = greedy_suppress(scores, pairs)
    linked = {frozenset(pair) for pair in pairs.tolist()}
    assert not any(keep[a] and keep[b] for a, b in map(tuple, linked))
    rank = {item: place for place, item in enumerate(sorted(range(len(scores)), key=lambda i: (-scores[i], i)))}
    for item in np.flatnonzero(~keep):
        rivals = [other for pair in linked if item in pair for other in pair - {item}]
        assert any(keep[other] and rank[other] < rank[item] for other in rivals)
