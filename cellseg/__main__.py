"""``python -m cellseg`` is the ``cellseg`` command."""

from cellseg.cli import main

if __name__ == "__main__":
    main()
