"""Training verbs of the ``pnseg`` command."""
