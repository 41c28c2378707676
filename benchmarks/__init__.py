"""What is measured, side by side with what users would pick instead. See benchmarks/README.md."""
