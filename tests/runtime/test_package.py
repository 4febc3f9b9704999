import pytest

import pnseg_runtime
from pnseg_runtime.errors import BundleError


def test_the_package_offers_what_it_promises():
    from pnseg_runtime.segmenter import Segmenter

    assert pnseg_runtime.Segmenter is Segmenter
    assert all(hasattr(pnseg_runtime, name) for name in pnseg_runtime.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = pnseg_runtime.nothing


def test_a_bundle_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no bundle here"):
        pnseg_runtime.load(tmp_path)
