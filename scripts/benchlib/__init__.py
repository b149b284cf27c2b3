"""The parts of scripts/bench: one noun a file, standard library only."""
