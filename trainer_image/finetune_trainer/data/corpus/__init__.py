"""Rules that compare rows with each other and with the hold-out (data rules 28 to 44).

Chunks of rows are measured by worker processes into compact facts (`facts`); the rules run once, on all
facts, and look at texts again only where they are about to accuse a pair of rows.
"""
