import pytest

from tests import golden

NETWORKS = ["prompter_cpm17", "prompter_pannuke", "segmentor_tiny"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_drawn_again_bit_for_bit(name):
    assert golden.fingerprint(golden.weights(name)) == golden.document(name)["state"]["sha256"]


def test_test_data_stays_small():
    assert sum(path.stat().st_size for path in golden.DATA.rglob("*") if path.is_file()) < 15e6
