"""Faults on purpose: the whole system behind proxies, what befell it, and a check of what is left."""
