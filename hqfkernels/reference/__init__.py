"""Plain-torch oracles: written to be read, and what every faster implementation is tested against."""
