"""Faults on purpose: the whole system behind proxies, what befell it, what must be left of it."""
