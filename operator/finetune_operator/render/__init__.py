"""The children of runs and servers as manifests: names, volumes, resources, containers, Jobs (pure)."""
