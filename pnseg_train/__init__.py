"""Training of the prompter and the segmentor in PyTorch."""
