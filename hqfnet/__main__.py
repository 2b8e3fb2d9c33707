"""``python -m hqfnet``: see `hqfnet.cli`."""

from hqfnet.cli import console

if __name__ == "__main__":
    console()
