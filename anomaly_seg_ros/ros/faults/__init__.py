"""The fault-injection replay: its node, its peers, its books, around a running detector."""
