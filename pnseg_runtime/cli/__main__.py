"""``python -m pnseg_runtime.cli`` is ``pnseg``, also where the script is not on the path."""

from pnseg_runtime.cli import main

if __name__ == "__main__":
    main()
