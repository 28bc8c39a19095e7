"""The demo: a whole system on throw-away servers, a believable day of a bakery, and the proof."""
