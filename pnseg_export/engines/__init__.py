"""TensorRT engines from a bundle's graphs: what to build for, in which shapes, and is it what was asked."""
