"""The HTTP side: one module for each group of endpoints. Bodies are read and validated here, and nowhere else."""
