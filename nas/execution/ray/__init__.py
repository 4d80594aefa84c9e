"""Run jobs in Ray actors on this machine or on a cluster. The only package that imports ray."""
