"""What `python -m sim` can be asked to do, a module or a folder per task."""
