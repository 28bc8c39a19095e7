"""A stand-in for Meta: the Graph API and the webhook sender, seeded, with a ledger of the truth."""
