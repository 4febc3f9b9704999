"""The networks as they are exported: tensors in, tensors out, nothing that depends on the data."""
