"""Readers of the places that models and data come from: hf://, pvc://, configmap://."""
