"""``python -m hqfnet``: see `hqfnet.cli`."""

from hqfnet.cli import main

if __name__ == "__main__":
    main()
