"""Export of trained networks into bundles of ONNX graphs."""
