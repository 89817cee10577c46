"""The figures of an accelerator, by one command: `python -m benchmarks.gpu`."""
