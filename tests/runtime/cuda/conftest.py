import pytest

from tests.runtime.cuda.emulated import Emulator, kernel_library


@pytest.fixture(scope="session")
def run() -> Emulator:
    """The kernels, emulated."""
    return Emulator(kernel_library())
