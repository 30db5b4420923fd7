"""Readers of training logs: files of any framework as a stream of rows."""
