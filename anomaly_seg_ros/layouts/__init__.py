"""Weights as people have them: what a file holds, which public layout it is, and whether it fits.

``read_checkpoint`` reads any file of tensors, ``recognise`` says what network they are of.
"""
