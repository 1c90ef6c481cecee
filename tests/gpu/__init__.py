"""Tests for machines with a GPU."""
