"""One script per published figure: ``python -m benchmarks.<name>`` writes ``results/<name>.json``."""
