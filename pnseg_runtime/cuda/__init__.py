"""Prediction with everything on an NVIDIA GPU: ``backend="cuda"``; see ``docs/cuda.md``.

>>> import pnseg_runtime
>>> segmenter = pnseg_runtime.load("bundles/mine", backend="cuda")
>>> nuclei = segmenter.predict(rgb)
"""
