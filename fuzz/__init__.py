"""Fuzzing of everything that reads what comes from outside; see README.md in this folder."""
