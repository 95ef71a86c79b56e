"""Imported last by the process that others are forked from: what is there is never looked through again."""

import gc

gc.collect()
gc.freeze()
