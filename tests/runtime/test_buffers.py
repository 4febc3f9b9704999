import numpy as np

from pnseg_runtime.buffers import Buffers


def address(array):
    return array.__array_interface__["data"][0]


def test_an_array_that_nobody_holds_gives_its_memory_to_the_next():
    buffers = Buffers()
    first = buffers.take((10, 10), np.float32)
    place = address(first)
    del first
    assert address(buffers.take((5, 7), np.int64)) == place
    assert len(buffers) == 1


def test_an_array_that_is_held_keeps_its_memory():
    buffers = Buffers()
    first = buffers.take((100,), np.float32)
    first[:] = 1
    second = buffers.take((100,), np.float32)
    second[:] = 2
    assert (first == 1).all()
    assert len(buffers) == 2


def test_a_view_of_a_view_keeps_the_memory_too():
    buffers = Buffers()
    view = buffers.take((10, 10), np.float32)[2:4].T[0]
    view[:] = 1
    buffers.take((10, 10), np.float32)[:] = 2
    assert (view == 1).all()


def test_of_the_unused_blocks_the_smallest_that_fits_is_taken():
    buffers = Buffers()
    large, small = buffers.take((1 << 22,), np.uint8), buffers.take((1 << 18,), np.uint8)
    places = address(large), address(small)
    del large, small
    assert address(buffers.take((1 << 17,), np.uint8)) == places[1]
    assert address(buffers.take((1 << 20,), np.uint8)) == places[0]


def test_no_more_unused_blocks_are_kept_than_allowed():
    buffers = Buffers(idle=2)
    held = [buffers.take((1 << (16 + i),), np.uint8) for i in range(5)]
    held.clear()
    buffers.take((1 << 23,), np.uint8)
    assert len(buffers) <= 3
    assert buffers.bytes >= 1 << 23


def test_of_too_many_unused_blocks_the_smallest_go():
    buffers = Buffers(idle=1)
    held = [buffers.take((1 << size,), np.uint8) for size in (16, 18)]
    held.clear()
    held.append(buffers.take((1 << 20,), np.uint8))
    assert buffers.bytes == (1 << 18) + (1 << 20)


def test_an_empty_array_can_be_taken():
    assert Buffers().take((0, 3), np.float32).shape == (0, 3)
