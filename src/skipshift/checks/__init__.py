"""What is looked for in a manifest before anything is trained, one idea a module."""
