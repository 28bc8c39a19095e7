"""Benchmarks: each figure beside its goal, its limit, and what a user would have picked instead."""
