"""Export verbs of the ``pnseg`` command."""
