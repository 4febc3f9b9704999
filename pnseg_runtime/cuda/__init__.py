"""Prediction with everything on an NVIDIA GPU; see ``docs/cuda.md``.

>>> import pnseg_runtime
>>> segmenter = pnseg_runtime.load("bundles/mine", backend="cuda", precision="float16")
>>> nuclei = segmenter.predict(rgb)
"""
