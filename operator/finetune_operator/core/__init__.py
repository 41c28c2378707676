"""What every other part builds on: times, addresses, raw manifests, and what a plan may ask for. No I/O."""
