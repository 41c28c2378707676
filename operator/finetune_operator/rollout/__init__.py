"""AdapterDeployment: which adapter an alias should serve, and whether it does (pure)."""
