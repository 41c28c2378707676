"""The embedded cluster: real Kubernetes processes on this machine, in a folder of their own."""
