"""Everything that runs the system on one machine: cluster, images, demo, test suite."""
