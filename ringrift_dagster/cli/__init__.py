"""`ringrift-data`: the data plane at a prompt, one module a command group, with no logic of its own."""
