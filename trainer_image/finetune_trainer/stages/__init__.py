"""One module per stage; each has `run(job, workspace) -> Result`."""
