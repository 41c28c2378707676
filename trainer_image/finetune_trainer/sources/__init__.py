"""Readers of the places that models and data come from: hf, pvc, configmap, s3, gs and https."""
