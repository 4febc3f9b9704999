"""What this machine has, what of it works, and what to do about the rest.

:mod:`facts` looks, and never fails; :mod:`rules` are sentences about facts, one for each way in which
deployments fail; :mod:`probe` tries a backend in a process of its own; :mod:`page` prints.
"""
