"""Pages that explain runs: one self-contained HTML file per run, and one that sets runs side by side."""
