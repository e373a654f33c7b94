"""A structure-aware fuzzer of everything that strangers give to the programs: python -m tests.fuzz --help."""
