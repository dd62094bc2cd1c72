"""Recorded demonstrations, whichever simulator they are from: what one is, the processes, and the dataset."""
