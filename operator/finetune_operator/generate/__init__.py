"""Writes the CRDs, the chart's copy of them and the API reference from the typed models; never imported at
run time."""
